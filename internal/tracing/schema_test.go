package tracing

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A validator checks values against the schemas in testdata/har-schema: the JSON schema of HAR 1.2
// that the npm package har-schema 2.0.0 has, unchanged. It knows the keywords that these schemas
// use, and fails at any other.
type validator struct {
	t       *testing.T
	schemas map[string]map[string]any // by the name of the file
}

// newValidator reads the schemas.
func newValidator(t *testing.T) *validator {
	t.Helper()
	v := &validator{t: t, schemas: make(map[string]map[string]any)}
	files, err := filepath.Glob("testdata/har-schema/*.json")
	if err != nil || len(files) < 15 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(file, err)
		}
		v.schemas[filepath.Base(file)] = schema
	}
	return v
}

// check returns what is wrong with text as a HAR.
func (v *validator) check(text []byte) []string {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return []string{err.Error()}
	}
	return v.value("har", value, v.schemas["har.json"])
}

// value returns what is wrong with value at a path, by schema.
func (v *validator) value(path string, value any, schema map[string]any) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, path+": "+fmt.Sprintf(format, args...))
	}
	object, isObject := value.(map[string]any)
	for key, rule := range schema {
		switch key {
		case "$id", "$schema", "optional", "title", "description":
		case "$ref":
			name := strings.TrimSuffix(rule.(string), "#")
			if v.schemas[name] == nil {
				v.t.Fatalf("%s: there is no schema %q", path, name)
			}
			faults = append(faults, v.value(path, value, v.schemas[name])...)
		case "type":
			if !hasType(value, rule) {
				fault("%T is not %v", value, rule)
			}
		case "required":
			for _, name := range rule.([]any) {
				if _, ok := object[name.(string)]; isObject && !ok {
					fault("%v is missing", name)
				}
			}
		case "properties":
			for name, inner := range rule.(map[string]any) {
				if got, ok := object[name]; ok {
					faults = append(faults, v.value(path+"."+name, got, inner.(map[string]any))...)
				}
			}
		case "items":
			list, _ := value.([]any)
			for i, got := range list {
				faults = append(faults, v.value(fmt.Sprintf("%s[%d]", path, i), got,
					rule.(map[string]any))...)
			}
		case "min", "minimum": // the schemas write "min", which JSON schema does not know, but mean this
			if n, ok := value.(float64); ok && n < rule.(float64) {
				fault("%v is less than %v", n, rule)
			}
		case "pattern":
			if s, ok := value.(string); ok && !regexp.MustCompile(rule.(string)).MatchString(s) {
				fault("%q does not match %v", s, rule)
			}
		case "format":
			if s, ok := value.(string); ok && !hasFormat(s, rule.(string)) {
				fault("%q is no %v", s, rule)
			}
		case "oneOf":
			matched := 0
			for _, inner := range rule.([]any) {
				if len(v.value(path, value, inner.(map[string]any))) == 0 {
					matched++
				}
			}
			if matched != 1 {
				fault("%v matches %d alternatives", value, matched)
			}
		default:
			v.t.Fatalf("%s: unknown keyword %q", path, key)
		}
	}
	return faults
}

// hasType reports whether value has one of the types of rule.
func hasType(value, rule any) bool {
	if list, ok := rule.([]any); ok {
		for _, one := range list {
			if hasType(value, one) {
				return true
			}
		}
		return false
	}
	switch value := value.(type) {
	case nil:
		return rule == "null"
	case bool:
		return rule == "boolean"
	case string:
		return rule == "string"
	case float64:
		return rule == "number" || rule == "integer" && value == float64(int64(value))
	case []any:
		return rule == "array"
	}
	return rule == "object"
}

// hasFormat reports whether s has the format.
func hasFormat(s, format string) bool {
	switch format {
	case "date-time":
		_, err := time.Parse(time.RFC3339Nano, s)
		return err == nil
	case "uri":
		u, err := url.Parse(s)
		return err == nil && u.Scheme != ""
	case "ipv4":
		ip := net.ParseIP(s)
		return ip != nil && ip.To4() != nil
	case "ipv6":
		ip := net.ParseIP(s)
		return ip != nil && ip.To4() == nil
	}
	return false
}

// The validator finds faults: it is not one that accepts everything.
func TestValidatorFindsFaults(t *testing.T) {
	v := newValidator(t)
	for _, text := range []string{
		`{}`, `{"log":{"version":"1.2"}}`, `[`,
		`{"log":{"version":1,"creator":{"name":"x","version":"1"},"entries":[]}}`,
		`{"log":{"version":"1","creator":{"name":"x","version":"1"},` +
			`"entries":[{"startedDateTime":"today"}]}}`,
	} {
		if len(v.check([]byte(text))) == 0 {
			t.Errorf("%s is accepted", text)
		}
	}
	good := `{"log":{"version":"1.2","creator":{"name":"x","version":"1"},"entries":[]}}`
	if faults := v.check([]byte(good)); len(faults) > 0 {
		t.Errorf("%s: %v", good, faults)
	}
}
