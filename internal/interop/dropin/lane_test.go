package dropin

import (
	"testing"

	"gohyper.dev/hyper/internal/lanes"
)

// A lane is one run of an experiment.
type lane struct{ *lanes.Lane }

// on makes an experiment with a lane of this package one for package lanes.
func on(experiment func(*lane)) func(*lanes.Lane) {
	return func(l *lanes.Lane) { experiment(&lane{l}) }
}

// compare runs an experiment over net/http's Transport and hyper's.
func compare(t *testing.T, experiment func(*lane)) { lanes.ComparePair(t, on(experiment)) }

// compareAll runs an experiment over those, and over ConfigureTransport.
func compareAll(t *testing.T, experiment func(*lane)) { lanes.Compare(t, on(experiment)) }

// some are experiments to be made in other ways, too.
var some = map[string]func(*lane){
	"go-containerregistry": pushAndPull,
	"go-git":               cloneFetchAndPush,
	"aws":                  useAWSObjects,
	"retryablehttp":        tryAgain,
	"vault":                useVault,
}

// Where servers do not speak HTTP/2, programs do not notice.
func TestHTTP1OnlyServers(t *testing.T) {
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { lanes.CompareHTTP1(t, on(experiment)) })
	}
}

// An http.Transport that speaks HTTP/2 through hyper.
func TestConfiguredTransport(t *testing.T) {
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { lanes.CompareConfigured(t, on(experiment)) })
	}
}
