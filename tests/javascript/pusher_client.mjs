// A pusher-js client.
//
// Its configuration is { key, options, auth }, where options are pusher-js's own and auth, when
// given, is used for every channel instead of asking an endpoint.
import Pusher from "pusher-js";

import { configuration, obey, say } from "./lines.mjs";

const { key, options, auth } = configuration;

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
  if (event === "pusher:signin_success") say("signed in", pusher.user.user_data);
});
pusher.user.bind_global((event, data) => say("user", event, data));
for (const change of ["online", "offline"]) {
  pusher.user.watchlist.bind(change, ({ user_ids }) => say("watchlist", change, user_ids));
}

await obey({
  subscribe(channel) {
    pusher.subscribe(channel).bind_global((event, data) => say("event", channel, event, data ?? null));
  },
  unsubscribe(channel) {
    pusher.unsubscribe(channel);
    say("unsubscribed", channel);
  },
  // What bind_global is not told: the metadata.
  listen(channel, event) {
    pusher.channel(channel).bind(event, (data, metadata) => say("heard", event, data, metadata));
    say("listening", event);
  },
  members(channel) {
    const { count, me, members } = pusher.channel(channel).members;
    say("members", { count, me, members });
  },
  trigger(channel, event, data) {
    say("triggered", pusher.channel(channel).trigger(event, data));
  },
  signin() {
    pusher.signin();
  },
  disconnect() {
    pusher.disconnect();
  },
});
