// This file holds limits of package hyper as numbers.

package hypertest

import "time"

// Limits of package hyper that are not exported. A test that fails when one of them changes tells
// that behavior has changed which users can see.
const (
	defaultHeaderMemory = 64 << 20
	closeGrace          = 200 * time.Millisecond
	busyPingGap         = 305 * time.Second
	corkDelay           = 5 * time.Millisecond // how long the preface waits for a first request
	maxAcksQueued       = 1000
	noiseBurst          = 10_000
	provokedBurst       = 1000
	maxOtherSettings    = 32
	writeSize           = 64 << 10 // bytes passed to the socket in one write
	fewOctets           = 4 << 10
	shrinkDelay         = 250 * time.Millisecond
	decodeGrace         = 32 << 20
	maxReadBuffer       = 64 << 10 // the buffer of a busy connection grows to this size
	maxBlock            = 64 << 10
	maxJoined           = 64 << 10
	maxInterims         = 100
	maxInterimSize      = 64 << 10
	maxDataFrame        = 64 << 10
	maxLost             = 2
	adaptiveInitial     = 256<<10 - 1
)
