package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"gohyper.dev/hyper"
)

// newProxy returns a proxy for the upstream at to.
func newProxy(to *url.URL, upstream http.RoundTripper) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
			r.Out.Trailer = r.In.Trailer // the same map: the values come after the body
		},
		Transport:     upstream,
		FlushInterval: -1, // what the upstream has sent is passed on at once
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			status := statusOf(err)
			log.Printf("%s %s: %d: %v", r.Method, r.URL.Path, status, err)
			if status == http.StatusServiceUnavailable {
				w.Header().Set("Retry-After", "1") // the upstream has not processed it
			}
			w.WriteHeader(status)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without it, a client of HTTP/1.1 gets no response before its body has been read.
		http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, r)
	})
}

// statusOf returns the status of a response whose upstream failed with err (RFC 9110 §15.6).
func statusOf(err error) int {
	var stream *hyper.StreamError
	var timeout net.Error
	var certificate *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	switch {
	case errors.Is(err, context.Canceled):
		return 499 // the client has gone; nginx logs that status, too
	case errors.As(err, &certificate), errors.As(err, &notTLS):
		return http.StatusBadGateway // it is Retryable, but it does not pass by itself
	case hyper.Retryable(err):
		return http.StatusServiceUnavailable
	case errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusGatewayTimeout
	case errors.As(err, &stream) && stream.Code == hyper.ErrCodeEnhanceYourCalm:
		return http.StatusTooManyRequests
	}
	return http.StatusBadGateway
}
