// The same pages and services as the Go origin, by Node's own HTTP/2.
// A worker serves. After SIGHUP another worker takes its place; SIGTERM stops it. Both are graceful.
// Arguments: port, port for cleartext, certificate, key, directory of the pages.
import cluster from 'node:cluster'
import http2 from 'node:http2'
import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

const [port, plain, cert, key, root] = process.argv.slice(2)
const settings = { enableConnectProtocol: true, maxConcurrentStreams: 250 }
const servers = [
  http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), settings }),
  http2.createServer({ settings }),
]
const codings = {
  br: zlib.createBrotliCompress,
  gzip: zlib.createGzip,
  deflate: zlib.createDeflate,
}

function file(stream, headers, name, more = {}) {
  const full = path.join(root, name)
  if (!fs.existsSync(full)) {
    stream.respond({ ':status': 404 })
    stream.end('not found\n')
    return
  }
  const coding = name.endsWith('.txt') && Object.keys(codings).find((c) => (headers['accept-encoding'] ?? '').includes(c))
  if (coding && !more.plain) {
    stream.respond({ 'content-encoding': coding })
    fs.createReadStream(full).pipe(codings[coding]()).pipe(stream)
    return
  }
  stream.respond({ 'content-length': fs.statSync(full).size }, { endStream: stream.headRequest })
  // Not respondWithFile: Node 20 dies of it (SIGSEGV) when the client resets the stream.
  if (!stream.headRequest) fs.createReadStream(full).pipe(stream)
}

const services = {
  '/page'(stream) {
    if (!stream.pushAllowed) {
      file(stream, {}, '/small.txt', { plain: true })
      return
    }
    stream.pushStream({ ':path': '/pushed.txt' }, (err, push) => {
      if (!err) file(push, {}, '/pushed.txt', { plain: true })
      file(stream, {}, '/small.txt', { plain: true })
    })
  },
  '/origin/sum'(stream, headers) {
    if (headers.expect === '100-continue') stream.additionalHeaders({ ':status': 100 })
    const sum = createHash('sha256')
    stream.on('data', (chunk) => sum.update(chunk))
    stream.on('end', () => {
      stream.respond()
      stream.end(sum.digest('hex'))
    })
  },
  '/origin/echo'(stream) {
    stream.respond()
    stream.pipe(stream)
  },
  '/origin/trailers'(stream) {
    stream.respond({}, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'abc' }))
    let sent = ''
    stream.on('trailers', (got) => { sent = got['x-sent'] })
    stream.on('end', () => stream.end('sent ' + sent))
    stream.resume()
  },
  '/origin/sent'(stream) {
    let sent = ''
    stream.on('trailers', (got) => { sent = got['x-sent'] })
    stream.on('end', () => {
      stream.respond()
      stream.end('sent ' + sent)
    })
    stream.resume()
  },
  '/origin/early'(stream) {
    stream.additionalHeaders({ ':status': 103, link: '</style>; rel=preload' })
    stream.respond()
    stream.end('late')
  },
  async '/origin/slow'(stream, headers) {
    const id = headers['x-request']
    console.log('seen ' + id)
    await sleep(20)
    if (stream.destroyed) return
    stream.respond()
    stream.end('done ' + id)
  },
  '/origin/found'(stream) {
    stream.respond({ ':status': 302, location: '/small.txt' })
    stream.end()
  },
  '/origin/again'(stream) {
    stream.on('end', () => {
      stream.respond({ ':status': 307, location: '/origin/sum' })
      stream.end()
    })
    stream.resume()
  },
  '/origin/header'(stream, headers) {
    stream.respond()
    stream.end(headers['x-long'])
  },
  '/origin/cookies'(stream, headers) {
    stream.respond()
    stream.end(headers.cookie)
  },
}

function serve(stream, headers) {
  stream.on('error', () => {})
  if (headers[':method'] === 'CONNECT') {
    stream.respond()
    stream.write(`${headers[':protocol'] ?? 'tunnel'}\n`)
    stream.pipe(stream)
    return
  }
  // A stream whose request was not read is reset by Node behind its response, at times before END_STREAM is out.
  if (headers[':method'] === 'GET' || headers[':method'] === 'HEAD') stream.resume()
  const service = services[headers[':path']]
  if (service) service(stream, headers)
  else file(stream, headers, headers[':path'])
}

const sessions = new Set()
for (const server of servers) {
  server.on('stream', serve)
  server.on('session', (session) => {
    sessions.add(session)
    session.on('error', () => {})
    session.on('close', () => sessions.delete(session))
  })
}

// A worker that gets a message closes its sessions, which sends GOAWAY, and ends after the last one.
function work() {
  process.on('message', () => {
    cluster.worker.disconnect()
    for (const session of sessions) session.close()
  })
  servers[0].listen(Number(port), '127.0.0.1')
  servers[1].listen(Number(plain), '127.0.0.1')
}

// manage starts the worker, and replaces it for each SIGHUP.
function manage() {
  let worker = cluster.fork()
  process.on('SIGHUP', () => {
    const old = worker
    worker = cluster.fork()
    let sockets = 0
    worker.on('listening', () => { if (++sockets === 2) old.send('stop') })
  })
  process.on('SIGTERM', () => {
    worker.send('stop')
    worker.on('exit', () => process.exit())
  })
}

if (cluster.isPrimary) manage()
else work()
