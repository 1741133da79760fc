// A remote control for unmodified PubNub clients: reads calls, one JSON object a line, and writes answers and events
// the same way. The tests in ../test_javascript.py say what to do and check what comes.
//
//   {"id": 1, "client": "u1", "new": {...configuration}}             makes a client that forwards its events
//   {"id": 2, "client": "u1", "call": "publish", "with": [{...}]}    calls its method, a path such as "objects.get"
//   -> {"id": 2, "result": ...} or {"id": 2, "error": {"status": 403, "category": "...", "message": "..."}}
//   -> {"client": "u1", "event": "message", "data": {...}}
//
// Bytes go as {"$bytes": base64}, a file of the disk in as {"$file": path}, one for the client to read; a file that
// comes back is told by its name, length and SHA-256.
'use strict';

const { createHash } = require('node:crypto');
const { createReadStream } = require('node:fs');
const { createInterface } = require('node:readline');
const PubNub = require('pubnub');

const EVENTS = ['status', 'message', 'presence', 'signal', 'messageAction', 'file'];
const clients = new Map();

const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

function given(key, value) {
  if (value !== null && typeof value === 'object') {
    if ('$bytes' in value) return Buffer.from(value.$bytes, 'base64');
    if ('$file' in value) return createReadStream(value.$file);
    if ('$linear' in value) return PubNub.LinearRetryPolicy(value.$linear);
  }
  return value;
}

async function shown(result) {
  if (result && typeof result.toBuffer === 'function') {
    const content = await result.toBuffer();
    return { name: result.name, length: content.length, sha256: createHash('sha256').update(content).digest('hex') };
  }
  return result;
}

function make(name, configuration) {
  const client = new PubNub(configuration);
  const listener = {};
  for (const event of EVENTS) listener[event] = (data) => tell({ client: name, event, data });
  client.addListener(listener);
  clients.set(name, client);
}

async function run({ client, new: configuration, call, with: parameters }) {
  if (configuration) return make(client, configuration);
  const path = call.split('.');
  const method = path.pop();
  const owner = path.reduce((object, part) => object[part], clients.get(client));
  return shown(await owner[method](...parameters));
}

function reason(fault) {
  const status = fault.status ?? {};
  return {
    status: status.statusCode ?? null,
    category: status.category ?? null,
    data: status.errorData ?? null,
    message: String(fault.message ?? fault),
  };
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const request = JSON.parse(line, given);
    run(request).then(
      (result) => tell({ id: request.id, result: result ?? null }),
      (fault) => tell({ id: request.id, error: reason(fault) }),
    );
  })
  .on('close', () => process.exit(0)); // the tests have ended, whatever the clients still wait for
