// Package gcs runs Google's client for Cloud Storage over net/http's Transport, hyper's and
// ConfigureTransport, as package dropin does with other programs. It is a module of its own, as the
// client takes long to compile. It holds nothing but tests.
package gcs
