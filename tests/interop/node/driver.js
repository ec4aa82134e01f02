'use strict';

// Drives the ali-ons client. Usage: node driver.js NAMESRV_ADDR produce|consume --option value ...
// Prints one JSON object per line; the options and events are listed in ../README.md.

const { Consumer, Message, Producer } = require('ali-ons');

const QUEUES_POLL_MS = 100;
const REBALANCE_MS = 1000;

function print(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

function fail(error) {
  process.stderr.write((error && error.stack || String(error)) + '\n');
  process.exit(1);
}

function parseOptions(args) {
  const options = {};
  for (let i = 0; i < args.length; i += 2) {
    if (!args[i].startsWith('--') || args[i + 1] === undefined) {
      throw new Error(`expected --option value, got: ${args.slice(i).join(' ')}`);
    }
    options[args[i].slice(2)] = args[i + 1];
  }
  return options;
}

function clientOptions(namesrvAddr) {
  // ali-ons insists on an HTTP client although it is used only to look NameServers up by URL.
  const httpclient = { request() { throw new Error('no HTTP look-up is expected when nameSrv is given'); } };
  const quiet = { info() {}, debug() {}, warn: console.error, error: console.error };
  return {
    nameSrv: namesrvAddr.split(';'),
    httpclient,
    logger: quiet,
    rebalanceInterval: REBALANCE_MS,
    persistConsumerOffsetInterval: 1000,
  };
}

async function produce(namesrvAddr, options) {
  const producer = new Producer(Object.assign(clientOptions(namesrvAddr), { producerGroup: options.group || 'node_producer' }));
  producer.on('error', error => console.error(error));
  await producer.ready();
  const prefix = options['body-prefix'] || 'message';
  const padding = 'x'.repeat(Number(options['pad-bytes'] || 0));
  const tags = options.tags ? options.tags.split(',') : [ null ];
  for (let i = 0; i < Number(options.count || 1); i++) {
    const body = `${prefix}-${i}${padding}`;
    const message = new Message(options.topic, tags[i % tags.length], body);
    if (options['key-prefix']) {
      message.keys = [ `${options['key-prefix']}-${i}` ];
    }
    for (const pair of (options.properties || '').split(',').filter(Boolean)) {
      const [ name, value ] = pair.split('=');
      message.properties[name] = value;
    }
    if (options['delay-level']) {
      message.delayTimeLevel = Number(options['delay-level']);
    }
    if (message.tags === null) {
      delete message.properties.TAGS; // otherwise ali-ons sends the text "null"
    }
    const result = await producer.send(message);
    print({
      event: 'sent',
      body,
      atMs: Date.now(),
      status: result.sendStatus,
      msgId: result.msgId,
      offsetMsgId: result.msgId, // ali-ons only knows the offset message id
      queueId: Number(result.messageQueue.queueId),
      queueOffset: result.queueOffset,
    });
  }
  await producer.close();
  print({ event: 'stopped' });
  process.exit(0); // the shared inner producer of ali-ons keeps the event loop alive
}

async function consume(namesrvAddr, options) {
  const limit = options['max-reconsume-times'] ? { maxReconsumeTimes: Number(options['max-reconsume-times']) } : {};
  const consumer = new Consumer(Object.assign(clientOptions(namesrvAddr), limit, {
    consumerGroup: options.group,
    consumeFromWhere: options.from === 'last' ? 'CONSUME_FROM_LAST_OFFSET' : 'CONSUME_FROM_FIRST_OFFSET',
  }));
  consumer.on('error', error => console.error(error));
  const failures = new Set((options['fail-bodies'] || '').split(',').filter(Boolean));
  consumer.subscribe(options.topic, options.tags || '*', async message => {
    const body = message.body ? message.body.toString() : '';
    print({
      event: 'message',
      atMs: Date.now(),
      topic: message.topic,
      tags: message.tags || null,
      keys: message.keys || null,
      body,
      msgId: message.msgId,
      offsetMsgId: message.msgId,
      queueId: message.queueId,
      queueOffset: message.queueOffset,
      reconsumeTimes: message.reconsumeTimes,
      properties: message.properties,
    });
    if (failures.has(body) && message.reconsumeTimes === 0) {
      return Consumer.ACTION_RETRY;
    }
    if (failures.has(body) && options['fail-always']) {
      throw new Error(`told to fail at ${body}`); // ali-ons takes no ACTION_RETRY for a message of the retry topic
    }
  });
  let stopping = false;
  process.on('SIGTERM', () => {
    if (stopping) return;
    stopping = true;
    consumer.close().then(() => {
      print({ event: 'stopped' });
      process.exit(0);
    }, fail);
  });
  await consumer.ready();
  print({ event: 'started', clientId: consumer.clientId });
  let printed = '';
  setInterval(() => {
    const owned = Array.from(consumer.processQueueTable.values(), item => item.messageQueue)
      .filter(queue => queue.topic === options.topic)
      .map(queue => `${queue.brokerName}:${queue.queueId}`)
      .sort();
    const text = JSON.stringify(owned);
    if (!stopping && text !== printed) {
      printed = text;
      print({ event: 'queues', queues: owned });
    }
  }, QUEUES_POLL_MS);
}

const [ namesrvAddr, action, ...rest ] = process.argv.slice(2);
const actions = { produce, consume };
if (!namesrvAddr || !actions[action]) {
  fail(new Error('usage: node driver.js NAMESRV_ADDR produce|consume --option value ...'));
} else {
  try {
    actions[action](namesrvAddr, parseOptions(rest)).catch(fail);
  } catch (error) {
    fail(error);
  }
}
