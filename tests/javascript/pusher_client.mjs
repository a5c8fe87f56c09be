// A pusher-js client that is driven over its standard streams.
//
// The one argument is JSON: { key, options, auth }, where options are pusher-js's own and auth, when
// given, is used for every channel instead of asking an endpoint. Commands come in as lines of JSON,
// [method, ...arguments]; everything that happens goes out as lines of JSON, [what, ...details].
import { createInterface } from "node:readline";
import Pusher from "pusher-js";

const { key, options, auth } = JSON.parse(process.argv[2]);
const say = (...line) => process.stdout.write(JSON.stringify(line) + "\n");

const pusher = new Pusher(key, {
  cluster: "",
  forceTLS: false,
  enabledTransports: ["ws"],
  ...(auth && {
    channelAuthorization: { customHandler: (request, answer) => answer(null, { auth }) },
  }),
  ...options,
});

pusher.connection.bind("state_change", ({ current }) =>
  say("state", current, pusher.connection.socket_id ?? null),
);
pusher.connection.bind("error", (error) => say("error", error.data ?? error.error?.data ?? null));

pusher.connection.bind("message", ({ event }) => {
  if (event === "pusher:ping") say("pinged");
});

const commands = {
  subscribe(channel) {
    pusher.subscribe(channel).bind_global((event, data) => say("event", channel, event, data ?? null));
  },
  unsubscribe(channel) {
    pusher.unsubscribe(channel);
    say("unsubscribed", channel);
  },
  trigger(channel, event, data) {
    say("triggered", pusher.channel(channel).trigger(event, data));
  },
  disconnect() {
    pusher.disconnect();
  },
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [method, ...rest] = JSON.parse(line);
    commands[method](...rest);
  })
  .on("close", () => process.exit(0));
