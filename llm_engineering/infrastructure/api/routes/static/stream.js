// Talking to the service: requests with the key of this tab, and Server-Sent Events over fetch (EventSource cannot POST).

const KEY = "twin-api-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, in words for the reader. */
export class ServiceError extends Error {
  constructor(message, { status = 0, code = "", requestId = "", retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

export async function request(path, { body, method = body === undefined ? "GET" : "POST", signal } = {}) {
  const headers = { Accept: "application/json, text/event-stream" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const raw = body instanceof Blob; // a file is sent as it is
  if (body !== undefined) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, cache: "no-store",
      body: body === undefined || raw ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service cannot be reached. Is it running?");
  }
  if (response.ok) return response;
  const { error = {} } = await response.json().catch(() => ({}));
  throw new ServiceError(error.message ?? `The service answered with status ${response.status}.`, {
    status: response.status, code: error.code, requestId: error.request_id,
    retryAfter: Number(response.headers.get("Retry-After")) || 0,
  });
}

/** The events of a response, as {event, data} with data parsed from JSON. Throws if the stream ends in the middle of one. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      pending = (pending + value).replaceAll("\r\n", "\n");
      let end;
      while ((end = pending.indexOf("\n\n")) >= 0) {
        const block = pending.slice(0, end);
        pending = pending.slice(end + 2);
        let event = "message";
        const data = [];
        for (const line of block.split("\n")) {
          if (line.startsWith("event:")) event = line.slice(6).trim();
          else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        }
        if (data.length) yield { event, data: JSON.parse(data.join("\n")) };
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
