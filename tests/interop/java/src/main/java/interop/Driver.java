package interop;

import com.alibaba.fastjson.JSON;
import com.alibaba.fastjson.JSONObject;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.AckStatus;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.impl.consumer.RebalanceImpl;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.constant.ConsumeInitMode;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.filter.ExpressionType;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.remoting.protocol.route.QueueData;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * Drives the Java client. Usage: Driver NAMESRV_ADDR ACTION --option value ...
 * Prints one JSON object per line; the actions, options and events are listed in ../README.md.
 */
public final class Driver {
    private static final long POLL_MS = 100;

    private final String namesrvAddr;
    private final Map<String, String> options;

    private Driver(String namesrvAddr, Map<String, String> options) {
        this.namesrvAddr = namesrvAddr;
        this.options = options;
    }

    public static void main(String[] args) throws Exception {
        if (args.length < 2 || args.length % 2 != 0) {
            System.err.println("usage: Driver NAMESRV_ADDR ACTION --option value ...");
            System.exit(2);
        }
        Map<String, String> options = new HashMap<>();
        for (int i = 2; i < args.length; i += 2) {
            options.put(args[i].substring(2), args[i + 1]);
        }
        int status = 0;
        try {
            new Driver(args[0], options).run(args[1]);
        } catch (Throwable error) {
            error.printStackTrace();
            status = 1;
        }
        System.out.flush();
        System.exit(status); // client threads that are not daemons would keep the JVM alive
    }

    private void run(String action) throws Exception {
        switch (action) {
            case "create-topic":
                createTopic();
                break;
            case "create-group":
                createGroup();
                break;
            case "set-request-mode":
                setRequestMode();
                break;
            case "query":
                query();
                break;
            case "filter":
                filter();
                break;
            case "produce":
                produce();
                break;
            case "consume":
                consume();
                break;
            case "pull":
                pull();
                break;
            case "lite-pull":
                litePull();
                break;
            case "pop-in-order":
                popInOrder();
                break;
            default:
                throw new IllegalArgumentException("unknown action " + action);
        }
    }

    private String option(String name) {
        String value = options.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    private static Map<String, Object> event(String name) {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("event", name);
        return event;
    }

    private static synchronized void print(Map<String, Object> event) {
        System.out.println(JSON.toJSONString(event));
        System.out.flush();
    }

    // ---- admin

    private DefaultMQAdminExt startAdmin() throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.setNamesrvAddr(namesrvAddr);
        admin.setInstanceName("interop-admin-" + System.nanoTime());
        admin.start();
        return admin;
    }

    private static Map<String, String> masters(ClusterInfo clusterInfo) {
        Map<String, String> masters = new LinkedHashMap<>();
        for (BrokerData broker : clusterInfo.getBrokerAddrTable().values()) {
            if (broker.getBrokerAddrs().containsKey(0L)) {
                masters.put(broker.getBrokerName(), broker.getBrokerAddrs().get(0L));
            }
        }
        return masters;
    }

    private void createTopic() throws Exception {
        DefaultMQAdminExt admin = startAdmin();
        String topic = option("topic");
        int queues = Integer.parseInt(option("queues"));
        Map<String, String> masters = masters(admin.examineBrokerClusterInfo());
        for (String address : masters.values()) {
            admin.createAndUpdateTopicConfig(address, new TopicConfig(topic, queues, queues, 6, 0));
        }
        Map<String, Object> created = event("topic");
        created.put("masters", masters);
        // The broker tells the NameServer after it has answered, so the route may take a moment.
        long deadline = System.currentTimeMillis() + 10_000;
        while (true) {
            try {
                List<Map<String, Object>> queueDatas = new ArrayList<>();
                for (QueueData data : admin.examineTopicRouteInfo(topic).getQueueDatas()) {
                    Map<String, Object> row = new LinkedHashMap<>();
                    row.put("brokerName", data.getBrokerName());
                    row.put("readQueueNums", data.getReadQueueNums());
                    row.put("writeQueueNums", data.getWriteQueueNums());
                    row.put("perm", data.getPerm());
                    queueDatas.add(row);
                }
                created.put("queueDatas", queueDatas);
                break;
            } catch (Exception error) {
                if (System.currentTimeMillis() > deadline) {
                    throw error;
                }
                Thread.sleep(POLL_MS);
            }
        }
        print(created);
        admin.shutdown();
    }

    private void createGroup() throws Exception {
        DefaultMQAdminExt admin = startAdmin();
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName(option("group"));
        group.setRetryMaxTimes(Integer.parseInt(options.getOrDefault("retry-max-times", "16")));
        Map<String, String> masters = masters(admin.examineBrokerClusterInfo());
        for (String address : masters.values()) {
            admin.createAndUpdateSubscriptionGroupConfig(address, group);
        }
        Map<String, Object> created = event("group");
        created.put("masters", masters);
        print(created);
        admin.shutdown();
    }

    /** How a group's members get a topic's messages where the broker shares its queues out: PULL or POP (401). */
    private void setRequestMode() throws Exception {
        DefaultMQAdminExt admin = startAdmin();
        MessageRequestMode mode = MessageRequestMode.valueOf(option("mode"));
        Map<String, String> masters = masters(admin.examineBrokerClusterInfo());
        for (String address : masters.values()) {
            admin.setMessageRequestMode(address, option("topic"), option("group"), mode, 0, 5000);
        }
        Map<String, Object> set = event("request-mode");
        set.put("masters", masters);
        print(set);
        admin.shutdown();
    }

    /** Looks a message up by offset message id (33), by unique key and by business key (12). */
    private void query() throws Exception {
        DefaultMQAdminExt admin = startAdmin();
        String topic = option("topic");
        if (options.containsKey("id")) {
            print(message("found", admin.viewMessage(topic, option("id"))));
        }
        if (options.containsKey("key")) {
            long now = System.currentTimeMillis();
            long hourMs = TimeUnit.HOURS.toMillis(1);
            for (MessageExt found : admin.queryMessage(topic, option("key"), 32, now - hourMs, now + hourMs).getMessageList()) {
                print(message("found", found));
            }
        }
        admin.shutdown();
    }

    // ---- filters

    /** Asks the broker's own filter, without a broker: each line of the file is {"sql": ..., "properties": {...}}. */
    private void filter() throws Exception {
        for (String line : Files.readAllLines(Path.of(option("file")), StandardCharsets.UTF_8)) {
            JSONObject item = JSON.parseObject(line);
            Map<String, Object> event = event("filtered");
            Expression expression = null;
            try {
                expression = FilterFactory.INSTANCE.get(ExpressionType.SQL92).compile(item.getString("sql"));
            } catch (Throwable error) {
                event.put("refused", String.valueOf(error.getCause()));
            }
            if (expression != null) {
                Map<String, Object> properties = item.getJSONObject("properties");
                boolean passes;
                try { // as ExpressionMessageFilter.isMatchedByCommitLog does
                    passes = Boolean.TRUE.equals(expression.evaluate(new EvaluationContext() {
                        @Override
                        public Object get(String name) {
                            return properties.get(name);
                        }

                        @Override
                        public Map<String, Object> keyValues() {
                            return properties;
                        }
                    }));
                } catch (Throwable error) {
                    passes = false;
                }
                event.put("passes", passes);
            }
            print(event);
        }
        print(event("stopped"));
    }

    // ---- producing

    private List<Message> messages() throws Exception {
        String[] tags = options.containsKey("tags") ? option("tags").split(",") : new String[] {null};
        String prefix = options.getOrDefault("body-prefix", "message");
        String padding = "x".repeat(Integer.parseInt(options.getOrDefault("pad-bytes", "0")));
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < Integer.parseInt(options.getOrDefault("count", "1")); i++) {
            byte[] body = (prefix + "-" + i + padding).getBytes(StandardCharsets.UTF_8);
            Message message = new Message(option("topic"), body);
            if (tags[i % tags.length] != null) {
                message.setTags(tags[i % tags.length]);
            }
            if (options.containsKey("key-prefix")) {
                message.setKeys(option("key-prefix") + "-" + i);
            }
            if (options.containsKey("properties")) {
                for (String pair : option("properties").split(",")) {
                    int equals = pair.indexOf('=');
                    message.putUserProperty(pair.substring(0, equals), pair.substring(equals + 1));
                }
            }
            if (options.containsKey("delay-level")) {
                message.setDelayTimeLevel(Integer.parseInt(option("delay-level")));
            }
            if (options.containsKey("delay-s")) {
                message.setDelayTimeSec(Long.parseLong(option("delay-s")));
            }
            messages.add(message);
        }
        return messages;
    }

    private static void printSent(Message message, SendResult result) {
        Map<String, Object> sent = event("sent");
        sent.put("body", new String(message.getBody(), StandardCharsets.UTF_8));
        if (result != null) {
            sent.put("status", result.getSendStatus().name());
            sent.put("msgId", result.getMsgId());
            sent.put("offsetMsgId", result.getOffsetMsgId());
            sent.put("queueId", result.getMessageQueue().getQueueId());
            sent.put("queueOffset", result.getQueueOffset());
            sent.put("atMs", System.currentTimeMillis());
        }
        print(sent);
    }

    private void produce() throws Exception {
        String mode = options.getOrDefault("mode", "single");
        String group = options.getOrDefault("group", "java_producer");
        if (mode.equals("transaction")) {
            produceInTransaction(group);
            return;
        }
        DefaultMQProducer producer = new DefaultMQProducer(group);
        producer.setNamesrvAddr(namesrvAddr);
        producer.start();
        List<Message> messages = messages();
        switch (mode) {
            case "single":
                for (Message message : messages) {
                    printSent(message, producer.send(message));
                }
                break;
            case "recall": // those with the tag RECALL
                for (Message message : messages) {
                    SendResult later = producer.send(message);
                    printSent(message, later);
                    if ("RECALL".equals(message.getTags())) {
                        Map<String, Object> recalled = event("recalled");
                        recalled.put("msgId", producer.recallMessage(message.getTopic(), later.getRecallHandle()));
                        print(recalled);
                    }
                }
                break;
            case "oneway":
                for (Message message : messages) {
                    producer.sendOneway(message);
                    printSent(message, null);
                }
                break;
            case "async":
                sendAsync(producer, messages);
                break;
            case "selector":
                int queueId = Integer.parseInt(option("queue-id"));
                for (Message message : messages) {
                    printSent(message, producer.send(message, (queues, msg, arg) -> queues.stream()
                        .filter(queue -> queue.getQueueId() == (Integer) arg).findFirst().orElseThrow(), queueId));
                }
                break;
            case "request":
                for (Message message : messages) {
                    Map<String, Object> replied = event("reply");
                    replied.put("body", new String(message.getBody(), StandardCharsets.UTF_8));
                    Message reply = request(producer, message);
                    replied.put("reply", new String(reply.getBody(), StandardCharsets.UTF_8));
                    replied.put("properties", new LinkedHashMap<>(reply.getProperties()));
                    print(replied);
                }
                break;
            case "batch":
                SendResult result = producer.send(messages);
                Map<String, Object> sent = event("sent-batch");
                sent.put("status", result.getSendStatus().name());
                sent.put("msgIds", result.getMsgId().split(","));
                sent.put("offsetMsgIds", result.getOffsetMsgId().split(","));
                sent.put("queueId", result.getMessageQueue().getQueueId());
                sent.put("queueOffset", result.getQueueOffset());
                print(sent);
                break;
            default:
                throw new IllegalArgumentException("unknown mode " + mode);
        }
        // Oneway frames may still be in the channel; an answered request on the same connection proves that they left.
        if (mode.equals("oneway")) {
            producer.fetchPublishMessageQueues(option("topic")).forEach(queue -> {
                try {
                    producer.maxOffset(queue);
                } catch (Exception error) {
                    throw new IllegalStateException(error);
                }
            });
        }
        producer.shutdown();
        print(event("stopped"));
    }

    /** With a selector and a callback: without them, client 5.3.3 returns null as soon as the request is stored. */
    private static Message request(DefaultMQProducer producer, Message message) throws Exception {
        CompletableFuture<Message> answered = new CompletableFuture<>();
        producer.request(message, (queues, msg, arg) -> queues.get(msg.getBody().length % queues.size()), null,
            new RequestCallback() {
                @Override
                public void onSuccess(Message reply) {
                    answered.complete(reply);
                }

                @Override
                public void onException(Throwable error) {
                    answered.completeExceptionally(error);
                }
            }, 30_000);
        return answered.get(35, TimeUnit.SECONDS);
    }

    private static void sendAsync(DefaultMQProducer producer, List<Message> messages) throws Exception {
        CountDownLatch answered = new CountDownLatch(messages.size());
        for (Message message : messages) {
            producer.send(message, new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    printSent(message, result);
                    answered.countDown();
                }

                @Override
                public void onException(Throwable error) {
                    error.printStackTrace();
                    answered.countDown();
                }
            });
        }
        if (!answered.await(30, TimeUnit.SECONDS)) {
            throw new IllegalStateException(answered.getCount() + " sends were not answered");
        }
    }

    /** The tag of a message decides: COMMIT, ROLLBACK, or CHECK = unknown now, committed when the broker asks back. */
    private void produceInTransaction(String group) throws Exception {
        List<Message> messages = messages();
        long toCheck = messages.stream().filter(message -> "CHECK".equals(message.getTags())).count();
        CountDownLatch checked = new CountDownLatch((int) toCheck);
        Set<String> checkedBodies = new HashSet<>();
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setNamesrvAddr(namesrvAddr);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object arg) {
                switch (message.getTags()) {
                    case "COMMIT":
                        return LocalTransactionState.COMMIT_MESSAGE;
                    case "ROLLBACK":
                        return LocalTransactionState.ROLLBACK_MESSAGE;
                    default:
                        return LocalTransactionState.UNKNOW;
                }
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                print(message("checked", message));
                synchronized (checkedBodies) {
                    if (checkedBodies.add(new String(message.getBody(), StandardCharsets.UTF_8))) {
                        checked.countDown();
                    }
                }
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        for (Message message : messages) {
            printSent(message, producer.sendMessageInTransaction(message, null));
        }
        long timeoutS = Long.parseLong(options.getOrDefault("check-timeout-s", "120"));
        if (!checked.await(timeoutS, TimeUnit.SECONDS)) {
            throw new IllegalStateException(checked.getCount() + " messages were not checked back");
        }
        // The answer to a check-back is one way; the next request on the connection comes after it.
        for (MessageQueue queue : producer.fetchPublishMessageQueues(option("topic"))) {
            producer.maxOffset(queue);
        }
        producer.shutdown();
        print(event("stopped"));
    }

    // ---- consuming

    private static Map<String, Object> message(String eventName, MessageExt message) {
        Map<String, Object> event = event(eventName);
        event.put("topic", message.getTopic());
        event.put("tags", message.getTags());
        event.put("keys", message.getKeys());
        event.put("body", new String(message.getBody(), StandardCharsets.UTF_8));
        event.put("msgId", message.getMsgId());
        // In a MessageClientExt getMsgId() is the unique key; a message found by id (33) is one as well.
        event.put("offsetMsgId",
            message instanceof MessageClientExt ? ((MessageClientExt) message).getOffsetMsgId() : message.getMsgId());
        event.put("uniqueKey", message.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX));
        event.put("queueId", message.getQueueId());
        event.put("queueOffset", message.getQueueOffset());
        event.put("reconsumeTimes", message.getReconsumeTimes());
        event.put("atMs", System.currentTimeMillis());
        event.put("properties", new LinkedHashMap<>(message.getProperties()));
        return event;
    }

    private static List<String> names(Iterable<MessageQueue> queues, String topic) {
        Set<String> names = new TreeSet<>();
        for (MessageQueue queue : queues) {
            if (queue.getTopic().equals(topic)) {
                names.add(queue.getBrokerName() + ":" + queue.getQueueId());
            }
        }
        return new ArrayList<>(names);
    }

    /** Runs the given action on SIGTERM before the JVM ends, with exit status 0. */
    private static CountDownLatch stopOnSignal(ThrowingRunnable shutdown) {
        CountDownLatch stop = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            int status = 0;
            try {
                stop.countDown();
                shutdown.run();
                print(event("stopped"));
            } catch (Throwable error) {
                error.printStackTrace();
                status = 1;
            }
            System.out.flush();
            Runtime.getRuntime().halt(status);
        }));
        return stop;
    }

    private interface ThrowingRunnable {
        void run() throws Exception;
    }

    /** The producer of replies, or null without --reply true. */
    private DefaultMQProducer startReplies() throws Exception {
        if (!Boolean.parseBoolean(options.getOrDefault("reply", "false"))) {
            return null;
        }
        DefaultMQProducer producer = new DefaultMQProducer("java_replies");
        producer.setNamesrvAddr(namesrvAddr);
        producer.start();
        return producer;
    }

    private static void reply(DefaultMQProducer producer, MessageExt message) {
        String answer = "reply to " + new String(message.getBody(), StandardCharsets.UTF_8);
        try {
            producer.send(MessageUtil.createReplyMessage(message, answer.getBytes(StandardCharsets.UTF_8)));
        } catch (Exception error) {
            error.printStackTrace();
        }
    }

    private void consume() throws Exception {
        String topic = option("topic");
        Set<String> failing = new HashSet<>(List.of(options.getOrDefault("fail-bodies", "").split(",")));
        boolean alwaysFail = Boolean.parseBoolean(options.getOrDefault("fail-always", "false"));
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(option("group"));
        consumer.setNamesrvAddr(namesrvAddr);
        consumer.setConsumeFromWhere(options.getOrDefault("from", "first").equals("last")
            ? ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET : ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMessageModel(Boolean.parseBoolean(options.getOrDefault("broadcast", "false"))
            ? MessageModel.BROADCASTING : MessageModel.CLUSTERING);
        if (options.containsKey("max-reconsume-times")) {
            consumer.setMaxReconsumeTimes(Integer.parseInt(option("max-reconsume-times")));
        }
        consumer.setClientRebalance(Boolean.parseBoolean(options.getOrDefault("client-rebalance", "true")));
        if (options.containsKey("pop-invisible-ms")) {
            consumer.setPopInvisibleTime(Long.parseLong(option("pop-invisible-ms")));
        }
        consumer.setPersistConsumerOffsetInterval(1000);
        if (options.containsKey("sql")) {
            consumer.subscribe(topic, MessageSelector.bySql(option("sql")));
        } else {
            consumer.subscribe(topic, options.getOrDefault("tags", "*"));
        }
        DefaultMQProducer replies = startReplies();
        if (Boolean.parseBoolean(options.getOrDefault("orderly", "false"))) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(message -> print(message("message", message)));
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                boolean fail = false;
                for (MessageExt message : messages) {
                    print(message("message", message));
                    if (replies != null) {
                        reply(replies, message);
                    }
                    fail |= failing.contains(new String(message.getBody(), StandardCharsets.UTF_8))
                        && (alwaysFail || message.getReconsumeTimes() == 0);
                }
                return fail ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        CountDownLatch stop = stopOnSignal(consumer::shutdown);
        consumer.start();
        print(event("started"));
        List<String> printed = null;
        while (!stop.await(POLL_MS, TimeUnit.MILLISECONDS)) {
            RebalanceImpl rebalance = consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl();
            Set<MessageQueue> queuesNow = new HashSet<>(rebalance.getProcessQueueTable().keySet());
            queuesNow.addAll(rebalance.getPopProcessQueueTable().keySet());
            List<String> owned = names(queuesNow, topic);
            if (!owned.equals(printed)) {
                Map<String, Object> queues = event("queues");
                queues.put("queues", owned);
                print(queues);
                printed = owned;
            }
        }
        Thread.currentThread().join();
    }

    /** Reads every queue of the topic from its committed (or first) offset to its end and commits where it stopped. */
    private void pull() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(option("group"));
        consumer.setNamesrvAddr(namesrvAddr);
        consumer.start();
        for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(option("topic"))) {
            long committed = consumer.fetchConsumeOffset(queue, true);
            long offset = Math.max(committed, 0);
            PullResult result;
            do {
                result = consumer.pull(queue, options.getOrDefault("tags", "*"), offset, 32);
                if (result.getPullStatus() == PullStatus.FOUND) {
                    result.getMsgFoundList().forEach(message -> print(message("message", message)));
                }
                offset = result.getNextBeginOffset();
            } while (result.getPullStatus() == PullStatus.FOUND || result.getPullStatus() == PullStatus.NO_MATCHED_MSG);
            consumer.updateConsumeOffset(queue, offset);
            consumer.getOffsetStore().persist(queue);
            Map<String, Object> end = event("queue");
            end.put("queue", queue.getBrokerName() + ":" + queue.getQueueId());
            end.put("committedBefore", committed);
            end.put("minOffset", consumer.minOffset(queue));
            end.put("maxOffset", consumer.maxOffset(queue));
            end.put("status", result.getPullStatus().name());
            end.put("committedAfter", consumer.getOffsetStore().readOffset(queue, ReadOffsetType.READ_FROM_STORE));
            print(end);
        }
        consumer.shutdown();
        print(event("stopped"));
    }

    /** POPs in order with the client's own calls, as RocketMQ's proxy does, until `count` messages are acknowledged. */
    private void popInOrder() throws Exception {
        String topic = option("topic");
        String group = option("group");
        int left = Integer.parseInt(option("count"));
        Set<String> failing = new HashSet<>(List.of(options.getOrDefault("fail-bodies", "").split(",")));
        DefaultMQProducer client = new DefaultMQProducer(group);
        client.setNamesrvAddr(namesrvAddr);
        client.start();
        Set<String> brokers = new TreeSet<>();
        client.fetchPublishMessageQueues(topic).forEach(queue -> brokers.add(queue.getBrokerName()));
        MQClientInstance instance = client.getDefaultMQProducerImpl().getMqClientFactory();
        instance.updateTopicRouteInfoFromNameServer(topic); // where its brokers are
        MQClientAPIImpl api = instance.getMQClientAPIImpl();
        while (left > 0) {
            for (String broker : brokers) {
                String address = instance.findBrokerAddressInPublish(broker);
                PopMessageRequestHeader header = new PopMessageRequestHeader();
                header.setConsumerGroup(group);
                header.setTopic(topic);
                header.setQueueId(-1);
                header.setMaxMsgNums(1);
                header.setInvisibleTime(60_000);
                header.setPollTime(1000);
                header.setBornTime(System.currentTimeMillis());
                header.setInitMode(ConsumeInitMode.MIN);
                header.setExpType(ExpressionType.TAG);
                header.setExp("*");
                header.setOrder(true);
                header.setAttemptId(UUID.randomUUID().toString());
                CompletableFuture<PopResult> popped = new CompletableFuture<>();
                api.popMessageAsync(broker, address, header, 10_000, new PopCallback() {
                    @Override
                    public void onSuccess(PopResult result) {
                        popped.complete(result);
                    }

                    @Override
                    public void onException(Throwable error) {
                        popped.completeExceptionally(error);
                    }
                });
                PopResult result = popped.get();
                if (result.getPopStatus() != PopStatus.FOUND) {
                    continue;
                }
                for (MessageExt message : result.getMsgFoundList()) {
                    print(message("message", message));
                    String handle = message.getProperty(MessageConst.PROPERTY_POP_CK);
                    String[] parts = ExtraInfoUtil.split(handle);
                    CompletableFuture<AckResult> answer = new CompletableFuture<>();
                    AckCallback callback = new AckCallback() {
                        @Override
                        public void onSuccess(AckResult result) {
                            answer.complete(result);
                        }

                        @Override
                        public void onException(Throwable error) {
                            answer.completeExceptionally(error);
                        }
                    };
                    if (failing.remove(new String(message.getBody(), StandardCharsets.UTF_8))) {
                        ChangeInvisibleTimeRequestHeader change = new ChangeInvisibleTimeRequestHeader();
                        change.setConsumerGroup(group);
                        change.setTopic(ExtraInfoUtil.getRealTopic(parts, topic, group));
                        change.setQueueId(ExtraInfoUtil.getQueueId(parts));
                        change.setExtraInfo(handle);
                        change.setOffset(ExtraInfoUtil.getQueueOffset(parts));
                        change.setInvisibleTime(100L);
                        api.changeInvisibleTimeAsync(broker, address, change, 10_000, callback);
                    } else {
                        AckMessageRequestHeader ack = new AckMessageRequestHeader();
                        ack.setConsumerGroup(group);
                        ack.setTopic(ExtraInfoUtil.getRealTopic(parts, topic, group));
                        ack.setQueueId(ExtraInfoUtil.getQueueId(parts));
                        ack.setExtraInfo(handle);
                        ack.setOffset(ExtraInfoUtil.getQueueOffset(parts));
                        api.ackMessageAsync(address, 10_000, callback, ack);
                        left--;
                    }
                    if (answer.get().getStatus() != AckStatus.OK) {
                        throw new IllegalStateException("not acknowledged: " + handle);
                    }
                }
            }
        }
        client.shutdown();
        print(event("stopped"));
    }

    private void litePull() throws Exception {
        String topic = option("topic");
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(option("group"));
        consumer.setNamesrvAddr(namesrvAddr);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, options.getOrDefault("tags", "*"));
        CountDownLatch stop = new CountDownLatch(1);
        CountDownLatch polled = new CountDownLatch(1);
        stopOnSignal(() -> {
            stop.countDown();
            polled.await();
            consumer.commit();
            consumer.shutdown();
        });
        consumer.start();
        print(event("started"));
        List<String> printed = null;
        while (stop.getCount() > 0) {
            consumer.poll(POLL_MS).forEach(message -> print(message("message", message)));
            consumer.commit();
            List<String> owned = names(consumer.assignment(), topic);
            if (!owned.equals(printed)) {
                Map<String, Object> queues = event("queues");
                queues.put("queues", owned);
                print(queues);
                printed = owned;
            }
        }
        polled.countDown();
        Thread.currentThread().join();
    }
}
