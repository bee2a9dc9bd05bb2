package netconn

import (
	"context"
	"crypto/tls"
	"net"
	"reflect"
)

// A TLSConn is a TLS connection. *tls.Conn is one.
type TLSConn interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// A tlsOverConn is a TLSConn that returns the connection below it, as *tls.Conn does. A connection
// that has a NetConn method but no TLS state is not one: its NetConn may have another meaning.
type tlsOverConn interface {
	TLSConn
	NetConn() net.Conn
}

// TLSOf returns nc as a TLS connection, or nil if it is none. A TLS connection is any net.Conn with
// a method ConnectionState that returns a tls.ConnectionState, or a struct of another package with
// a string field NegotiatedProtocol, such as that of github.com/refraction-networking/utls.
func TLSOf(nc net.Conn) TLSConn {
	if tc, ok := nc.(TLSConn); ok {
		return tc
	}
	if stated, ok := nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return &statedConn{Conn: nc, state: stated.ConnectionState}
	}
	method := reflect.ValueOf(nc).MethodByName("ConnectionState")
	if !method.IsValid() || !returnsState(method.Type()) {
		return nil
	}
	return &statedConn{Conn: nc, state: func() tls.ConnectionState {
		return convertState(method.Call(nil)[0])
	}}
}

// returnsState reports whether a method of type t returns the state of a TLS connection.
func returnsState(t reflect.Type) bool {
	if t.NumIn() != 0 || t.NumOut() != 1 || t.Out(0).Kind() != reflect.Struct {
		return false
	}
	field, ok := t.Out(0).FieldByName("NegotiatedProtocol")
	return ok && field.Type.Kind() == reflect.String
}

// convertState converts the state of another TLS implementation to that of crypto/tls. It copies
// the exported fields with equal names and convertible types.
func convertState(from reflect.Value) (state tls.ConnectionState) {
	to := reflect.ValueOf(&state).Elem()
	for i := range to.NumField() {
		field := to.Type().Field(i)
		given, ok := from.Type().FieldByName(field.Name)
		if !ok || !field.IsExported() || !given.IsExported() || given.Type.Kind() != field.Type.Kind() {
			continue
		}
		// An embedded pointer may be nil before the handshake.
		value, err := from.FieldByIndexErr(given.Index)
		if err == nil && value.CanConvert(field.Type) {
			to.Field(i).Set(value.Convert(field.Type))
		}
	}
	return state
}

// A statedConn makes a TLSConn of a connection that has no HandshakeContext method, or whose
// ConnectionState has a type of its own.
type statedConn struct {
	net.Conn
	state func() tls.ConnectionState
}

// ConnectionState returns the present state. If the connection has no Handshake method, the
// handshake counts as complete.
func (s *statedConn) ConnectionState() tls.ConnectionState {
	state := s.state()
	if _, has := s.Conn.(interface{ Handshake() error }); !has {
		state.HandshakeComplete = true
	}
	return state
}

// HandshakeContext runs the handshake, if the connection has one. If the handshake does not accept
// a context, the end of ctx closes the connection.
func (s *statedConn) HandshakeContext(ctx context.Context) error {
	switch nc := s.Conn.(type) {
	case interface{ HandshakeContext(context.Context) error }:
		return nc.HandshakeContext(ctx)
	case interface{ Handshake() error }:
		stop := context.AfterFunc(ctx, func() { s.Conn.Close() })
		err := nc.Handshake()
		if !stop() {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// lower returns the connection that TLS writes to, or nil if that is unknown.
func (s *statedConn) lower() net.Conn {
	if nc, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return nc.NetConn()
	}
	return nil
}
