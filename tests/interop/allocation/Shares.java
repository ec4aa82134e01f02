import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.rebalance.*;
import org.apache.rocketmq.common.message.MessageQueue;

/** Reads "strategy|current|cid,cid|broker:id,broker:id" lines, writes the share of the current cid as "broker:id,...". */
public class Shares {
    public static void main(String[] args) throws Exception {
        AllocateMachineRoomNearby.MachineRoomResolver resolver = new AllocateMachineRoomNearby.MachineRoomResolver() {
            public String brokerDeployIn(MessageQueue queue) { return queue.getBrokerName().split("@")[0]; }
            public String consumerDeployIn(String cid) { return cid.split("@")[2]; }
        };
        AllocateMessageQueueByMachineRoom rooms = new AllocateMessageQueueByMachineRoom();
        rooms.setConsumeridcs(new HashSet<>(Arrays.asList("east", "west")));
        Map<String, AllocateMessageQueueStrategy> strategies = new HashMap<>();
        for (AllocateMessageQueueStrategy one : Arrays.asList(new AllocateMessageQueueAveragely(),
                new AllocateMessageQueueAveragelyByCircle(), new AllocateMessageQueueConsistentHash(), rooms)) {
            strategies.put(one.getName(), one);
        }
        for (String inner : Arrays.asList("AVG", "AVG_BY_CIRCLE", "CONSISTENT_HASH")) {
            AllocateMessageQueueStrategy near = new AllocateMachineRoomNearby(strategies.get(inner), resolver);
            strategies.put(near.getName(), near);
        }
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\\|");
            List<MessageQueue> queues = new ArrayList<>();
            for (String text : parts[3].split(",")) {
                int colon = text.lastIndexOf(':');
                queues.add(new MessageQueue("T", text.substring(0, colon), Integer.parseInt(text.substring(colon + 1))));
            }
            List<String> cids = Arrays.asList(parts[2].split(","));
            List<MessageQueue> share = strategies.get(parts[0]).allocate("G", parts[1], queues, cids);
            System.out.println(share.stream().map(q -> q.getBrokerName() + ":" + q.getQueueId())
                .collect(Collectors.joining(",")));
        }
    }
}
