// A Laravel Echo client with the broadcaster "reverb".
//
// Its configuration are Echo's own options. A channel is named as applications name it: by Echo's
// method (channel, private, encryptedPrivate, join) and the name without prefix.
import Echo from "laravel-echo";
import Pusher from "pusher-js";

import { configuration, obey, say } from "./lines.mjs";

const echo = new Echo({ broadcaster: "reverb", Pusher, ...configuration });

echo.connector.onConnectionChange((status) => say("status", status, echo.socketId() ?? null));
echo.connector.pusher.connection.bind("message", ({ event }) => {
  if (event === "pusher:signin_success") say("signed in");
});

await obey({
  subscribe(method, name) {
    const channel = echo[method](name)
      .subscribed(() => say("subscribed", name))
      .error((error) => say("refused", name, error));
    if (method === "join") {
      channel
        .here((users) => say("here", name, users))
        .joining((user) => say("joining", name, user))
        .leaving((user) => say("leaving", name, user));
    }
  },
  listen(method, name, event) {
    echo[method](name).listen(event, (data) => say("event", name, event, data));
    say("listening", event);
  },
  listenForNotification(method, name) {
    echo[method](name).notification((data) => say("notification", name, data));
    say("listening", "notification");
  },
  listenForWhisper(method, name, event) {
    echo[method](name).listenForWhisper(event, (data) => say("whisper", name, event, data));
    say("listening", event);
  },
  whisper(method, name, event, data) {
    echo[method](name).whisper(event, data);
  },
  leave(name) {
    echo.leave(name);
  },
  // Echo leaves the user to the client below it.
  signin() {
    echo.connector.pusher.user.bind_global((event, data) => say("user", event, data));
    echo.connector.signin();
  },
});
