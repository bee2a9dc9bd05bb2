package dropin

import (
	"testing"

	"gohyper.dev/hyper/internal/lanes"
)

// A lane is one run of an experiment over one transport.
type lane struct{ *lanes.Lane }

// on returns an experiment for package lanes.
func on(experiment func(*lane)) func(*lanes.Lane) {
	return func(l *lanes.Lane) { experiment(&lane{l}) }
}

// compare runs an experiment over net/http's Transport and hyper's.
func compare(t *testing.T, experiment func(*lane)) { lanes.ComparePair(t, on(experiment)) }

// compareAll runs an experiment over those two, and over ConfigureTransport.
func compareAll(t *testing.T, experiment func(*lane)) { lanes.Compare(t, on(experiment)) }

// some are experiments that further tests repeat in other ways.
var some = map[string]func(*lane){
	"go-containerregistry": pushAndPull,
	"go-git":               cloneFetchAndPush,
	"aws":                  useAWSObjects,
	"retryablehttp":        tryAgain,
	"vault":                useVault,
}

// TestHTTP1OnlyServers checks that programs work the same with servers that only speak HTTP/1.1.
func TestHTTP1OnlyServers(t *testing.T) {
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { lanes.CompareHTTP1(t, on(experiment)) })
	}
}

// TestConfiguredTransport uses an http.Transport that speaks HTTP/2 through hyper.
func TestConfiguredTransport(t *testing.T) {
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { lanes.CompareConfigured(t, on(experiment)) })
	}
}
