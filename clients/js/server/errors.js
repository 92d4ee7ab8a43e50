/** What can go wrong. Every error of the server library is a `RainbowError`. */

export class RainbowError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** No usable answer came from the server. `maybeDone`: the call may have been carried out all the same. */
export class Unreachable extends RainbowError {
  constructor(message, { maybeDone, cause }) {
    super(message, { cause });
    this.maybeDone = maybeDone;
  }
}

/** The server refused a call. `msg` is its reason, `httpStatus` the status of its answer. */
export class CallRefused extends RainbowError {
  constructor(msg, { httpStatus }) {
    super(msg);
    this.msg = msg;
    this.httpStatus = httpStatus;
  }
}

/** A send that some of its targets will not get, or whose outcome is not known. `result` has the figures. */
export class SendIncomplete extends CallRefused {
  constructor(msg, { httpStatus, result }) {
    super(msg, { httpStatus });
    this.result = result;
  }
}

/** A request is not signed by a key that is known here, or is too old. */
export class BadSignature extends RainbowError {}

/** Thrown by `refuse()` in a handler: the client is not let in, or its message is refused for good. */
export class Refused extends RainbowError {
  constructor(reason = "", { status = 403 } = {}) {
    super(reason || "refused");
    if (!(status >= 400 && status <= 499) || RETRIED_STATUSES.includes(status)) {
      throw new RangeError(`status ${status} is not a final refusal: use 400-499 without ${RETRIED_STATUSES.join(", ")}`);
    }
    this.reason = reason;
    this.status = status;
  }
}

/** Rainbow takes these for a failure and calls again. */
const RETRIED_STATUSES = [408, 425, 429];
