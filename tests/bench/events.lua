-- wrk sends the requests of a file, each once: "<bytes>\n<request>" per request. It stops when they are used up.
local file, last

function init(arguments)
  file = assert(io.open(arguments[1], "rb"))
end

function request()
  local size = file:read("*l")
  if not size then
    wrk.thread:stop()
    return last
  end
  last = file:read(tonumber(size))
  return last
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
