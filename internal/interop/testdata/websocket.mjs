// WebSockets over HTTP/2 (RFC 8441) by Node's own HTTP/2: it echoes each message.
// Arguments: port, certificate, key.
import http2 from 'node:http2'
import fs from 'node:fs'

const [port, cert, key] = process.argv.slice(2)
const server = http2.createSecureServer({
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  settings: { enableConnectProtocol: true },
})

// next takes one frame of a client off the beginning of bytes (RFC 6455 §5.2). Its payload is below 64 KiB.
function next(bytes) {
  if (bytes.length < 2) return null
  let [length, at] = [bytes[1] & 0x7f, 2]
  if (length === 126) {
    if (bytes.length < 4) return null
    length = bytes.readUInt16BE(2)
    at = 4
  }
  if (bytes.length < at + 4 + length) return null
  const mask = bytes.subarray(at, at + 4)
  const payload = Buffer.from(bytes.subarray(at + 4, at + 4 + length))
  for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i % 4]
  return { first: bytes[0], payload, rest: bytes.subarray(at + 4 + length) }
}

function frame(first, payload) {
  const length = Buffer.alloc(payload.length < 126 ? 1 : 3)
  if (payload.length < 126) length[0] = payload.length
  else {
    length[0] = 126
    length.writeUInt16BE(payload.length, 1)
  }
  return Buffer.concat([Buffer.from([first]), length, payload])
}

server.on('stream', (stream, headers) => {
  stream.on('error', () => {})
  if (headers[':method'] !== 'CONNECT' || headers[':protocol'] !== 'websocket' || headers[':path'] === '/denied') {
    stream.respond({ ':status': 403 })
    stream.end('not you\n')
    return
  }
  stream.respond({ ':status': 200, 'sec-websocket-protocol': headers['sec-websocket-protocol'] })
  let bytes = Buffer.alloc(0)
  stream.on('data', (chunk) => {
    bytes = Buffer.concat([bytes, chunk])
    for (let f; (f = next(bytes)); bytes = f.rest) {
      stream.write(frame(f.first, f.payload))
      if ((f.first & 0xf) === 8) stream.end() // the close is echoed, too
    }
  })
  stream.on('end', () => stream.end())
})
server.listen(Number(port), '127.0.0.1')
