package hyper

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"
)

// An inflater decodes gzip and deflate. Unlike compress/gzip and compress/zlib, it returns decoded
// bytes before it reads more input, so content does not wait for a checksum or for the next member.
// Each member is checked by the Read after its last byte. Within deflate, compress/flate returns
// content at a flush (an empty stored block), at the end, and whenever it has 32 KiB.
type inflater struct {
	wrapping wrapping      // that the coding allows
	found    wrapping      // that the input has
	part     memberPart    // to be read next
	in       *bufio.Reader // of the codec, which keeps both
	content  io.ReadCloser // decodes in by compress/flate; nil until needed
	crc      uint32        // of a gzip member's content or header
	size     uint32        // of a gzip member's content
	adler    hash.Hash32   // of a zlib stream's content; nil until needed
	buf      [10]byte      // for headers and trailers
}

// A wrapping is the format around deflate data.
type wrapping int

const (
	eitherWrapping wrapping = iota // of the coding deflate: zlib or none
	gzipWrapping                   // RFC 1952
	zlibWrapping                   // RFC 1950
	noWrapping
)

// A memberPart is a part of a gzip member or of a zlib stream.
type memberPart int

const (
	memberHeader memberPart = iota
	memberContent
	memberTrailer
	memberEnd // no other member follows
)

// reset implements resetter.
func (z *inflater) reset(in *bufio.Reader) error {
	z.in, z.part, z.found = in, memberHeader, z.wrapping
	return nil
}

// reusable returns true: the next reset clears the state.
func (z *inflater) reusable(bool) bool { return true }

// Read returns decoded bytes of one member.
func (z *inflater) Read(p []byte) (n int, err error) {
	for {
		switch z.part {
		case memberHeader:
			err = z.readHeader()
		case memberContent:
			n, err = z.readContent(p)
			if n > 0 {
				return n, err
			}
		case memberTrailer:
			err = z.readTrailer()
		case memberEnd:
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
}

// readHeader reads a header. It returns io.EOF if the input ends between two gzip members.
func (z *inflater) readHeader() error {
	switch z.found {
	case gzipWrapping:
		if _, err := z.in.Peek(1); err != nil {
			return err
		}
		if err := z.readGzipHeader(); err != nil {
			return noEOF(err)
		}
	default:
		if err := z.readZlibHeader(); err != nil {
			return noEOF(err)
		}
	}
	z.crc, z.size, z.part = 0, 0, memberContent
	if z.content == nil {
		z.content = flate.NewReader(z.in)
		return nil
	}
	return z.content.(flate.Resetter).Reset(z.in, nil)
}

// readContent decodes into p.
func (z *inflater) readContent(p []byte) (int, error) {
	n, err := z.content.Read(p)
	switch z.found {
	case gzipWrapping:
		z.crc = crc32.Update(z.crc, crc32.IEEETable, p[:n])
		z.size += uint32(n)
	case zlibWrapping:
		z.adler.Write(p[:n])
	}
	if err == io.EOF {
		z.part, err = memberTrailer, nil
	}
	return n, err
}

// readTrailer reads and checks the trailer, if the format has one.
func (z *inflater) readTrailer() error {
	b := z.buf[:8]
	switch z.found {
	case gzipWrapping: // RFC 1952 §2.3.1
		if _, err := io.ReadFull(z.in, b); err != nil {
			return noEOF(err)
		}
		if binary.LittleEndian.Uint32(b) != z.crc || binary.LittleEndian.Uint32(b[4:]) != z.size {
			return gzip.ErrChecksum
		}
		z.part = memberHeader // RFC 1952 §2.2: a gzip file is a series of members
		return nil
	case zlibWrapping:
		if _, err := io.ReadFull(z.in, b[:4]); err != nil {
			return noEOF(err)
		}
		if binary.BigEndian.Uint32(b) != z.adler.Sum32() {
			return zlib.ErrChecksum
		}
	}
	z.part = memberEnd
	return nil
}

// The flags of a gzip header, RFC 1952 §2.3.1.
const (
	gzipHeaderSum = 1 << 1
	gzipExtra     = 1 << 2
	gzipName      = 1 << 3
	gzipComment   = 1 << 4
)

// readGzipHeader reads a member's header and discards it.
func (z *inflater) readGzipHeader() error {
	z.crc = 0
	head := z.buf[:]
	if err := z.readSummed(head); err != nil {
		return err
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return gzip.ErrHeader
	}
	flags := head[3]
	if flags&gzipExtra != 0 {
		if err := z.readSummed(head[:2]); err != nil {
			return err
		}
		for left := int(binary.LittleEndian.Uint16(head)); left > 0; {
			piece := head[:min(left, len(head))]
			if err := z.readSummed(piece); err != nil {
				return err
			}
			left -= len(piece)
		}
	}
	for _, text := range []byte{gzipName, gzipComment} {
		if flags&text != 0 {
			if err := z.readText(); err != nil {
				return err
			}
		}
	}
	if flags&gzipHeaderSum != 0 {
		sum := uint16(z.crc)
		if err := z.readSummed(head[:2]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(head) != sum {
			return gzip.ErrHeader
		}
	}
	return nil
}

// readText skips a name or a comment up to its zero byte. It refuses more than 512 bytes, as
// compress/gzip does.
func (z *inflater) readText() error {
	for range 512 {
		if err := z.readSummed(z.buf[:1]); err != nil {
			return err
		}
		if z.buf[0] == 0 {
			return nil
		}
	}
	return gzip.ErrHeader
}

// readSummed fills p and adds it to the header's checksum.
func (z *inflater) readSummed(p []byte) error {
	_, err := io.ReadFull(z.in, p)
	z.crc = crc32.Update(z.crc, crc32.IEEETable, p)
	return err
}

// readZlibHeader determines the format of the coding deflate. It is either the zlib format (RFC
// 1950), as RFC 9110 §8.4.1.2 defines, or plain deflate, of which that section warns: "Some
// non-conformant implementations send the "deflate" compressed data without the zlib wrapper."
func (z *inflater) readZlibHeader() error {
	head, err := z.in.Peek(2)
	if err != nil {
		return err // neither format fits into one byte
	}
	if !isZlib(head[0], head[1]) {
		z.found = noWrapping
		return nil
	}
	z.found = zlibWrapping
	if z.adler == nil {
		z.adler = adler32.New()
	}
	z.adler.Reset()
	if head[1]&0x20 != 0 {
		return zlib.ErrDictionary
	}
	_, err = z.in.Discard(2)
	return err
}

// isZlib reports whether the input begins with a zlib header (RFC 1950 §2.2: deflate, a window of
// at most 32 KiB, and FCHECK) rather than with plain deflate. Plain deflate could begin with these
// bytes only in a stored block that is not the last and that has a bit set in its padding. No
// encoder sets such a bit.
func isZlib(cmf, flg byte) bool {
	return cmf&0x0f == 8 && cmf>>4 <= 7 && (int(cmf)<<8|int(flg))%31 == 0
}

// noEOF returns err. It turns io.EOF into io.ErrUnexpectedEOF, because the input ended inside a
// member.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
