// The official server library of Node.js.
//
// Its configuration are the library's own options, or { url } for `forURL`, and its commands the
// library's own methods. It says what they return, answer or throw.
import Pusher from "pusher";

import { configuration, obey, say } from "./lines.mjs";

const { url, ...options } = configuration;
const pusher = url ? Pusher.forURL(url, options) : new Pusher(options);

const call = (method) => async (...rest) => {
  try {
    const result = await pusher[method](...rest);
    if (typeof result?.text === "function") say("answered", result.status, await result.text());
    else say("returned", result);
  } catch (error) {
    say("threw", error.message, error.status ?? null, error.body ?? null);
  }
};

const methods = Object.keys(Pusher.prototype);

await obey({
  ...Object.fromEntries(methods.map((method) => [method, call(method)])),
  methods() {
    say("methods", methods.sort());
  },
  webhook(request, extraTokens) {
    const webhook = pusher.webhook(request);
    const isValid = webhook.isValid(extraTokens);
    say("webhook", isValid, isValid ? webhook.getEvents() : null);
  },
});
