// Drives rocketmq-client-go v2. Usage: driver NAMESRV_ADDR create-topic|produce|consume --option value ...
// Prints one JSON object per line; the options and events are listed in ../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type event map[string]any

type options map[string]string

var printLock sync.Mutex

func printEvent(e event) {
	line, err := json.Marshal(e)
	if err != nil {
		fail(err)
	}
	printLock.Lock()
	defer printLock.Unlock()
	fmt.Println(string(line))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (o options) get(name, fallback string) string {
	if value, ok := o[name]; ok {
		return value
	}
	return fallback
}

func (o options) integer(name string, fallback int) int {
	value, err := strconv.Atoi(o.get(name, strconv.Itoa(fallback)))
	if err != nil {
		fail(fmt.Errorf("--%s: %w", name, err))
	}
	return value
}

// stderrLogger keeps the client's log off stdout, where it goes by default.
type stderrLogger struct{}

func (stderrLogger) Debug(string, map[string]interface{}) {}
func (stderrLogger) Info(string, map[string]interface{})  {}
func (stderrLogger) Warning(text string, fields map[string]interface{}) {
	fmt.Fprintln(os.Stderr, "WARN", text, fields)
}
func (stderrLogger) Error(text string, fields map[string]interface{}) {
	fmt.Fprintln(os.Stderr, "ERROR", text, fields)
}
func (stderrLogger) Fatal(text string, fields map[string]interface{}) {
	fmt.Fprintln(os.Stderr, "FATAL", text, fields)
}
func (stderrLogger) Level(string)            {}
func (stderrLogger) OutputPath(string) error { return nil }

func createTopic(namesrvAddrs []string, opts options) error {
	client, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(namesrvAddrs)))
	if err != nil {
		return err
	}
	defer client.Close()
	queues := opts.integer("queues", 4)
	err = client.CreateTopic(context.Background(),
		admin.WithTopicCreate(opts["topic"]),
		admin.WithBrokerAddrCreate(opts["broker"]),
		admin.WithReadQueueNums(queues),
		admin.WithWriteQueueNums(queues))
	if err != nil {
		return err
	}
	printEvent(event{"event": "topic"})
	return nil
}

func messages(opts options) []*primitive.Message {
	tags := strings.Split(opts["tags"], ",")
	result := make([]*primitive.Message, 0)
	for i := 0; i < opts.integer("count", 1); i++ {
		body := fmt.Sprintf("%s-%d%s", opts.get("body-prefix", "message"), i, strings.Repeat("x", opts.integer("pad-bytes", 0)))
		message := primitive.NewMessage(opts["topic"], []byte(body))
		if tag := tags[i%len(tags)]; tag != "" {
			message.WithTag(tag)
		}
		if prefix, ok := opts["key-prefix"]; ok {
			message.WithKeys([]string{fmt.Sprintf("%s-%d", prefix, i)})
		}
		if pairs, ok := opts["properties"]; ok {
			for _, pair := range strings.Split(pairs, ",") {
				name, value, _ := strings.Cut(pair, "=")
				message.WithProperty(name, value)
			}
		}
		result = append(result, message)
	}
	return result
}

func sent(name, body string, result *primitive.SendResult) {
	e := event{
		"event":       name,
		"body":        body,
		"status":      map[bool]string{true: "SEND_OK", false: "NOT_OK"}[result.Status == primitive.SendOK],
		"msgId":       result.MsgID,
		"offsetMsgId": result.OffsetMsgID,
		"queueId":     result.MessageQueue.QueueId,
		"queueOffset": result.QueueOffset,
	}
	if name == "sent-batch" {
		delete(e, "body")
		e["msgIds"] = strings.Split(result.MsgID, ",")
		e["offsetMsgIds"] = strings.Split(result.OffsetMsgID, ",")
	}
	printEvent(e)
}

func produce(namesrvAddrs []string, opts options) error {
	mode := opts.get("mode", "single")
	if mode == "transaction" {
		return produceInTransaction(namesrvAddrs, opts)
	}
	selector := producer.NewRoundRobinQueueSelector()
	if mode == "selector" {
		selector = producer.NewManualQueueSelector()
	}
	client, err := rocketmq.NewProducer(
		producer.WithNsResolver(primitive.NewPassthroughResolver(namesrvAddrs)),
		producer.WithGroupName(opts.get("group", "go_producer")),
		producer.WithInstanceName(strconv.Itoa(os.Getpid())),
		producer.WithQueueSelector(selector))
	if err != nil {
		return err
	}
	if err = client.Start(); err != nil {
		return err
	}
	ctx := context.Background()
	batch := messages(opts)
	switch mode {
	case "single":
		for _, message := range batch {
			result, err := client.SendSync(ctx, message)
			if err != nil {
				return err
			}
			sent("sent", string(message.Body), result)
		}
	case "selector":
		queueID := opts.integer("queue-id", 0)
		for _, message := range batch {
			message.Queue = &primitive.MessageQueue{Topic: message.Topic, BrokerName: opts["broker-name"], QueueId: queueID}
			result, err := client.SendSync(ctx, message)
			if err != nil {
				return err
			}
			sent("sent", string(message.Body), result)
		}
	case "oneway":
		for _, message := range batch {
			if err := client.SendOneWay(ctx, message); err != nil {
				return err
			}
			printEvent(event{"event": "sent", "body": string(message.Body)})
		}
	case "async":
		var answered sync.WaitGroup
		for _, message := range batch {
			body := string(message.Body)
			answered.Add(1)
			err := client.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
				defer answered.Done()
				if err != nil {
					fail(err)
				}
				sent("sent", body, result)
			}, message)
			if err != nil {
				return err
			}
		}
		answered.Wait()
	case "request":
		for _, message := range batch {
			body := string(message.Body)
			reply, err := client.Request(ctx, 5*time.Second, message)
			// The client introduces itself to a new broker after a second; the reply to its first request may be quicker.
			for attempt := 0; err != nil && attempt < 5; attempt++ {
				reply, err = client.Request(ctx, 5*time.Second, message)
			}
			if err != nil {
				return err
			}
			printEvent(event{"event": "reply", "body": body, "reply": string(reply.Body), "properties": reply.GetProperties()})
		}
	case "batch":
		result, err := client.SendSync(ctx, batch...)
		if err != nil {
			return err
		}
		sent("sent-batch", "", result)
	default:
		return fmt.Errorf("unknown mode %s", mode)
	}
	if err = client.Shutdown(); err != nil {
		return err
	}
	printEvent(event{"event": "stopped"})
	return nil
}

// listener decides by the tag: COMMIT, ROLLBACK, or CHECK = unknown now, committed when the broker asks back.
type listener struct {
	checked sync.Map
	waiting sync.WaitGroup
}

func (l *listener) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	switch message.GetTags() {
	case "COMMIT":
		return primitive.CommitMessageState
	case "ROLLBACK":
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func (l *listener) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	body := string(message.Body)
	printEvent(event{"event": "checked", "body": body, "topic": message.Topic, "tags": message.GetTags()})
	if _, again := l.checked.LoadOrStore(body, true); !again {
		l.waiting.Done()
	}
	return primitive.CommitMessageState
}

func produceInTransaction(namesrvAddrs []string, opts options) error {
	decides := &listener{}
	client, err := rocketmq.NewTransactionProducer(decides,
		producer.WithNsResolver(primitive.NewPassthroughResolver(namesrvAddrs)),
		producer.WithGroupName(opts.get("group", "go_producer")),
		producer.WithInstanceName(strconv.Itoa(os.Getpid())))
	if err != nil {
		return err
	}
	if err = client.Start(); err != nil {
		return err
	}
	for _, message := range messages(opts) {
		if message.GetTags() == "CHECK" {
			decides.waiting.Add(1)
		}
		body := string(message.Body)
		result, err := client.SendMessageInTransaction(context.Background(), message)
		if err != nil {
			return err
		}
		sent("sent", body, result.SendResult)
	}
	decides.waiting.Wait()
	time.Sleep(time.Second) // the answers to the questions are one way
	if err = client.Shutdown(); err != nil {
		return err
	}
	printEvent(event{"event": "stopped"})
	return nil
}

// startReplies returns the producer of replies, or nil without --reply true.
func startReplies(namesrvAddrs []string, opts options) (rocketmq.Producer, error) {
	if opts["reply"] != "true" {
		return nil, nil
	}
	client, err := rocketmq.NewProducer(
		producer.WithNsResolver(primitive.NewPassthroughResolver(namesrvAddrs)),
		producer.WithGroupName("go_replies"),
		producer.WithInstanceName(strconv.Itoa(os.Getpid())+"_replies"))
	if err != nil {
		return nil, err
	}
	return client, client.Start()
}

func consume(namesrvAddrs []string, opts options) error {
	topic := opts["topic"]
	failing := make(map[string]bool)
	for _, body := range strings.Split(opts["fail-bodies"], ",") {
		failing[body] = body != ""
	}
	from := consumer.ConsumeFromFirstOffset
	if opts["from"] == "last" {
		from = consumer.ConsumeFromLastOffset
	}
	// The client has no call that tells its queues, but it asks the strategy at every rebalance.
	var printed string
	strategy := func(group, clientID string, all []*primitive.MessageQueue, clientIDs []string) []*primitive.MessageQueue {
		mine := consumer.AllocateByAveragely(group, clientID, all, clientIDs)
		if len(all) > 0 && all[0].Topic == topic {
			names := make([]string, 0)
			for _, queue := range mine {
				names = append(names, fmt.Sprintf("%s:%d", queue.BrokerName, queue.QueueId))
			}
			sort.Strings(names)
			if text := strings.Join(names, ","); text != printed {
				printed = text
				printEvent(event{"event": "queues", "queues": names})
			}
		}
		return mine
	}
	client, err := rocketmq.NewPushConsumer(
		consumer.WithNsResolver(primitive.NewPassthroughResolver(namesrvAddrs)),
		consumer.WithGroupName(opts["group"]),
		consumer.WithInstance(strconv.Itoa(os.Getpid())),
		consumer.WithConsumeFromWhere(from),
		consumer.WithStrategy(strategy))
	if err != nil {
		return err
	}
	replies, err := startReplies(namesrvAddrs, opts)
	if err != nil {
		return err
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: opts.get("tags", "*")}
	err = client.Subscribe(topic, selector, func(_ context.Context, batch ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		for _, message := range batch {
			body := string(message.Body)
			printEvent(event{
				"event":          "message",
				"topic":          message.Topic,
				"tags":           message.GetTags(),
				"keys":           message.GetKeys(),
				"body":           body,
				"msgId":          message.MsgId,
				"offsetMsgId":    message.OffsetMsgId,
				"queueId":        message.Queue.QueueId,
				"queueOffset":    message.QueueOffset,
				"reconsumeTimes": message.ReconsumeTimes,
				"properties":     message.GetProperties(),
			})
			if replies != nil {
				reply, err := consumer.CreateReplyMessage(message, nil)
				if err == nil {
					reply.Body = []byte("reply to " + body) // CreateReplyMessage of v2.1.2 takes it for properties
					_, err = replies.SendSync(context.Background(), reply)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, "reply:", err)
				}
			}
			if failing[body] && message.ReconsumeTimes == 0 {
				result = consumer.ConsumeRetryLater
			}
		}
		return result, nil
	})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err = client.Start(); err != nil {
		return err
	}
	printEvent(event{"event": "started"})
	<-stop
	// Shutdown persists the offsets; a message whose listener has returned a moment ago may not be counted yet.
	time.Sleep(200 * time.Millisecond)
	if err = client.Shutdown(); err != nil {
		return err
	}
	printEvent(event{"event": "stopped"})
	return nil
}

func main() {
	rlog.SetLogger(stderrLogger{})
	if len(os.Args) < 3 || len(os.Args)%2 == 0 {
		fail(fmt.Errorf("usage: driver NAMESRV_ADDR create-topic|produce|consume --option value ..."))
	}
	opts := make(options)
	for i := 3; i < len(os.Args); i += 2 {
		opts[strings.TrimPrefix(os.Args[i], "--")] = os.Args[i+1]
	}
	actions := map[string]func([]string, options) error{"create-topic": createTopic, "produce": produce, "consume": consume}
	action, ok := actions[os.Args[2]]
	if !ok {
		fail(fmt.Errorf("unknown action %s", os.Args[2]))
	}
	if err := action(strings.Split(os.Args[1], ";"), opts); err != nil {
		fail(err)
	}
}
