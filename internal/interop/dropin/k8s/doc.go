// Package k8s runs Kubernetes' client-go over net/http's Transport, hyper's and ConfigureTransport,
// as package dropin does with other programs. It is a module of its own, as client-go takes long to
// compile. It holds nothing but tests.
package k8s
