// Package gcs runs Google's client for Cloud Storage with net/http's Transport, hyper's, and
// ConfigureTransport, as package dropin does with other programs. It is a separate module because
// the client takes long to compile. It contains only tests.
package gcs
