// Package k8s runs Kubernetes' client-go with net/http's Transport, hyper's, and
// ConfigureTransport, as package dropin does with other programs. It is a separate module because
// client-go takes long to compile. It contains only tests.
package k8s
