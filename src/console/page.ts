export const style = `
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
  h1 { font-size: 1.4rem } fieldset { border: 1px solid #c9d1d9; border-radius: 6px; margin: 0 0 1rem; padding: .6rem 1rem }
  legend { font-weight: 600; padding: 0 .4rem } label { margin-right: .8rem }
  input { font: inherit; padding: .15rem .4rem; border: 1px solid #8c959f; border-radius: 4px }
  button { font: inherit; padding: .2rem .8rem; border: 1px solid #1f6feb; border-radius: 4px; background: #1f6feb; color: #fff }
  code { font-size: .85rem; word-break: break-all } #log { list-style: none; padding: 0; margin: 0; font-size: .9rem }
  #log li { border-bottom: 1px solid #eaeef2; padding: .2rem 0; font-family: ui-monospace, monospace; word-break: break-word }
  .event { color: #0b5f2a } .note { color: #57606a } .error { color: #a40e26 }
`;

export const script = `
  const $ = (id) => document.getElementById(id);
  const base = location.pathname.replace(/\\/$/, "");
  let socket;
  function show(text, kind) {
    const item = document.createElement("li");
    item.textContent = text;
    item.className = kind;
    $("log").prepend(item);
  }
  async function post(path, body) {
    const headers = { "content-type": "application/json" };
    const key = $("key").value;
    if (key) headers.authorization = "Bearer " + key;
    const response = await fetch(base + path, { method: "POST", headers, body: JSON.stringify(body) });
    if (response.status === 401) $("keys").hidden = false;
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
    return answer;
  }
  $("keys").hidden = performance.getEntriesByType("navigation")[0]?.responseStatus !== 401;
  function user() {
    const text = $("user").value;
    return /^\\d+$/.test(text) ? Number(text) : text;
  }
  function list(text) { return text.split(",").map((part) => part.trim()).filter(Boolean); }
  function on(form, work) {
    $(form).addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      work().catch((error) => show(error.message, "error"));
    });
  }
  on("register", async () => {
    const client = await post("/register", { user_id: user() });
    $("url").textContent = client.url;
    $("topics").value = client.topics.join(", ");
    connect(client.url);
  });
  function connect(url) {
    socket?.close();
    const mine = new WebSocket(url, "relay.v1.json");
    socket = mine;
    mine.onopen = () => { $("state").textContent = "connected"; };
    mine.onclose = (closed) => {
      show("closed: " + closed.code + " " + closed.reason, "note");
      if (socket === mine) $("state").textContent = "not connected";
    };
    mine.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type !== "event") return show(JSON.stringify(frame.data ?? frame.error), frame.type === "error" ? "error" : "note");
      const message = typeof frame.message === "string" ? frame.message : JSON.stringify(frame.message);
      show(frame.topic + ": " + message, "event");
    };
  }
  on("subscribe", async () => {
    if (socket?.readyState !== WebSocket.OPEN) throw new Error("register first");
    socket.send(JSON.stringify({ topics: list($("topics").value) }));
  });
  on("publish", async () => {
    const text = $("message").value;
    let message = text;
    try { message = JSON.parse(text); } catch { /* plain text */ }
    const to = $("to").value;
    const body = { topic: $("topic").value, message };
    if (to) body.user_id = /^\\d+$/.test(to) ? Number(to) : to;
    const receipt = await post("/publish", body);
    show("published: matched " + receipt.matched + ", sent " + receipt.sent + ", waiting " + receipt.waiting, "note");
  });
`;

/** The page at `/`: register, connect, subscribe, publish, see messages. */
export const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>topic-relay</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<h1>topic-relay</h1>
<div id="keys" hidden><label>key <input id="key" type="password" size="40" autocomplete="off"></label></div>
<form id="register"><fieldset><legend>1. Register and connect</legend>
  <label>user <input id="user" value="1" size="12" required></label>
  <button>Register</button> <span id="state">not connected</span><br><code id="url"></code>
</fieldset></form>
<form id="subscribe"><fieldset><legend>2. Subscribe</legend>
  <label>topics <input id="topics" value="cats" size="40"></label> <button>Subscribe</button>
</fieldset></form>
<form id="publish"><fieldset><legend>3. Publish</legend>
  <label>topic <input id="topic" value="cats" size="12" required></label>
  <label>message <input id="message" value="are awesome" size="24"></label>
  <label>to user <input id="to" placeholder="everyone" size="10"></label> <button>Publish</button>
</fieldset></form>
<ul id="log" aria-live="polite"></ul>
<script>${script}</script>
</body>
</html>
`;
