// The official server library of Node.js.
//
// Its configuration are the library's own options, and its commands the library's own methods. It
// says what they return, answer or throw.
import Pusher from "pusher";

import { configuration, obey, say } from "./lines.mjs";

const pusher = new Pusher(configuration);

const call = (method) => async (...rest) => {
  try {
    const result = await pusher[method](...rest);
    if (typeof result?.text === "function") say("answered", result.status, await result.text());
    else say("returned", result);
  } catch (error) {
    say("threw", error.message, error.status ?? null, error.body ?? null);
  }
};

const methods = [
  "trigger",
  "triggerBatch",
  "sendToUser",
  "terminateUserConnections",
  "get",
  "post",
  "authorizeChannel",
  "authenticateUser",
];

await obey({
  ...Object.fromEntries(methods.map((method) => [method, call(method)])),
  webhook(request, extraTokens) {
    const webhook = pusher.webhook(request);
    const isValid = webhook.isValid(extraTokens);
    say("webhook", isValid, isValid ? webhook.getEvents() : null);
  },
});
