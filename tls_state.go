package hyper

import (
	"context"
	"crypto/tls"
	"net"
	"reflect"
)

// tlsOf returns nc as a connection of TLS, nil where it is none. Every net.Conn that has a method
// ConnectionState is one whose result is a tls.ConnectionState, or a struct of another package's,
// as that of github.com/refraction-networking/utls, that has a string field NegotiatedProtocol.
func tlsOf(nc net.Conn) tlsConn {
	if tc, ok := nc.(tlsConn); ok {
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

// returnsState reports whether a method of type t returns what a handshake agreed on.
func returnsState(t reflect.Type) bool {
	if t.NumIn() != 0 || t.NumOut() != 1 || t.Out(0).Kind() != reflect.Struct {
		return false
	}
	field, ok := t.Out(0).FieldByName("NegotiatedProtocol")
	return ok && field.Type.Kind() == reflect.String
}

// convertState returns the state of another implementation of TLS as crypto/tls has it: the
// exported fields of the same names and of types that can be converted.
func convertState(from reflect.Value) (state tls.ConnectionState) {
	to := reflect.ValueOf(&state).Elem()
	for i := range to.NumField() {
		field := to.Type().Field(i)
		given, ok := from.Type().FieldByName(field.Name)
		if !ok || !field.IsExported() || !given.IsExported() || given.Type.Kind() != field.Type.Kind() {
			continue
		}
		value, err := from.FieldByIndexErr(given.Index) // an embedded pointer may be nil before the handshake
		if err == nil && value.CanConvert(field.Type) {
			to.Field(i).Set(value.Convert(field.Type))
		}
	}
	return state
}

// A statedConn makes a tlsConn of a connection that lacks a HandshakeContext, or whose
// ConnectionState has a type of its own.
type statedConn struct {
	net.Conn
	state func() tls.ConnectionState
}

// ConnectionState returns the state as it is now. Without a handshake to run, it is the last.
func (s *statedConn) ConnectionState() tls.ConnectionState {
	state := s.state()
	if _, has := s.Conn.(interface{ Handshake() error }); !has {
		state.HandshakeComplete = true
	}
	return state
}

// HandshakeContext runs the handshake, if there is one to run. The end of ctx closes a connection
// whose handshake does not look at it.
func (s *statedConn) HandshakeContext(ctx context.Context) error {
	switch nc := s.Conn.(type) {
	case interface{ HandshakeContext(context.Context) error }:
		return nc.HandshakeContext(ctx)
	case interface{ Handshake() error }:
		stop := context.AfterFunc(ctx, func() { s.Conn.Close() })
		err := nc.Handshake()
		if !stop() {
			return contextError(ctx)
		}
		return err
	}
	return nil
}

// lower returns the connection that TLS writes to, nil where that is not known.
func (s *statedConn) lower() net.Conn {
	if nc, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return nc.NetConn()
	}
	return nil
}
