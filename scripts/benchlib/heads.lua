-- Requests as browsers send them for tracking pixels: a head of some 600 bytes, another path every time.
-- Arguments: profile ("same": only the path differs; "varied": a cookie and the browser's version differ too).
-- Then, in any number: "routes=N" (paths begin with /r001/ to one of N), "cookie=NAME=VALUE" (sent in turn).
-- All strings are made before the clock starts, so that the load costs the measuring core little.

local COUNT = 8192
local started = 0
local pool = {}
local at = 0

local HEAD = table.concat({
  "GET /%s/%d/%d/1.gif HTTP/1.1",
  "Host: track.lists.example",
  "Connection: keep-alive",
  'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
  "sec-ch-ua-mobile: ?0",
  "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    .. " Chrome/142.0.%d.%d Safari/537.36",
  "Accept: image/avif,image/webp,image/apng,*/*;q=0.8",
  "Sec-Fetch-Site: cross-site",
  "Sec-Fetch-Mode: no-cors",
  "Sec-Fetch-Dest: image",
  "Referer: https://mail.example/",
  "Accept-Encoding: gzip, deflate, br, zstd",
  "Accept-Language: en-GB,en;q=0.9",
  "Cookie: visitor=%08x%08x%s",
  "", "",
}, "\r\n")

function setup(thread)
  thread:set("number", started)
  started = started + 1
end

local function words(args)
  local routes, cookies = 0, {}
  for i = 2, #args do
    local key, value = args[i]:match("^(%w+)=(.+)$")
    if key == "routes" then
      routes = tonumber(value)
    else
      cookies[#cookies + 1] = "; " .. value
    end
  end
  return routes, cookies
end

function init(args)
  local varied = args[1] == "varied"
  local routes, cookies = words(args)
  for i = 1, COUNT do
    local k = varied and i or 0
    local start = routes > 0 and string.format("r%03d", i * 7919 % routes + 1) or "db"
    local cookie = #cookies > 0 and cookies[i % #cookies + 1] or ""
    pool[i] = string.format(HEAD, start, 4711 + i % 7, 100000 + i, k % 7445, k % 211,
      1000003 * k % 2 ^ 31, 2654435 + k, cookie)
  end
  at = number * 1031 % COUNT
end

function request()
  at = at % COUNT + 1
  return pool[at]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
