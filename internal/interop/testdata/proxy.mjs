// A proxy for CONNECT, in HTTP/2, to one port. Arguments: port, certificate, key, the port that it leads to, credentials.
import http2 from 'node:http2'
import fs from 'node:fs'
import net from 'node:net'

const [port, cert, key, to, credentials] = process.argv.slice(2)
const server = http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
server.on('stream', (stream, headers) => {
  stream.on('error', () => {})
  if (headers['proxy-authorization'] !== 'Basic ' + Buffer.from(credentials).toString('base64')) {
    stream.respond({ ':status': 407 }, { endStream: true })
    return
  }
  const target = new URL('tcp://' + headers[':authority'])
  if (headers[':method'] !== 'CONNECT' || target.port !== to) {
    stream.respond({ ':status': 403 }, { endStream: true })
    return
  }
  const socket = net.connect(target.port, target.hostname, () => {
    stream.respond({ ':status': 200 })
    socket.pipe(stream)
    stream.pipe(socket)
  })
  socket.on('error', () => stream.close(http2.constants.NGHTTP2_CONNECT_ERROR))
  stream.on('close', () => socket.destroy())
})
server.on('session', (session) => session.on('error', () => {}))
server.listen(Number(port), '127.0.0.1')
