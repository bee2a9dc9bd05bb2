package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"gohyper.dev/hyper/internal/bench/chart"
)

// plotData is what was measured for the plots and for the table of the README. A folder of plots
// keeps it as plots.json, so that all of them can be drawn again.
type plotData struct {
	Speed   *speedData   `json:"speed,omitempty"`
	Bulk    *bulkData    `json:"bulk,omitempty"`
	Memory  *memoryData  `json:"memory,omitempty"`
	Windows *windowsData `json:"windows,omitempty"`
}

// A plotRun is the time and the place of a measurement.
type plotRun struct {
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Server  string   `json:"server,omitempty"`
	Rounds  int      `json:"rounds,omitempty"`
	Left    []string `json:"left,omitempty"` // what was left out, and why
}

// newRun returns a run of now.
func newRun(rounds int) plotRun {
	return plotRun{Date: time.Now().Format(time.DateOnly), Rounds: rounds,
		Machine: fmt.Sprintf("%s, %d processors", runtime.Version(), runtime.NumCPU())}
}

// A plotClient is a client of the plots. ink is its color and its mark in all of them.
type plotClient struct {
	impl, name string
	ink        int
}

// plotClients are all clients of the plots. net/http is the one that others are compared with.
var plotClients = []plotClient{
	{"own", "hyper", 0},
	{"http", "hyper under http.Client", 1},
	{"nethttp", "net/http", 2},
	{"xnet", "x/net/http2", 3},
	{"grpc", "grpc-go, unary calls", 4},
	{h2load, "h2load, in C", 5},
}

// clientOf returns the client with this impl.
func clientOf(impl string) plotClient {
	i := slices.IndexFunc(plotClients, func(c plotClient) bool { return c.impl == impl })
	return plotClients[i]
}

// drawn returns the ink of the client's curves.
func (c plotClient) drawn() chart.Ink { return chart.Ink{Color: c.ink, Mark: c.ink + 1} }

// medians are the medians of figures, by the name of the figure and the impl of the client.
type medians map[string]map[string]float64

// rounded rounds to four digits, so that plots.json can be read.
func rounded(v float64) float64 {
	v, _ = strconv.ParseFloat(fmt.Sprintf("%.4g", v), 64)
	return v
}

// samples are the values of the rounds, by the name of the figure and the impl of the client.
type samples map[string]map[string][]float64

// add adds a value.
func (s samples) add(figure, impl string, value float64) {
	if s[figure] == nil {
		s[figure] = map[string][]float64{}
	}
	s[figure][impl] = append(s[figure][impl], value)
}

// medians returns the median of each figure and client.
func (s samples) medians() medians {
	m := medians{}
	for figure, of := range s {
		m[figure] = map[string]float64{}
		for impl, values := range of {
			slices.Sort(values)
			m[figure][impl] = rounded(values[len(values)/2])
		}
	}
	return m
}

// ratio returns a client's figure as a part of net/http's; 0: there is none.
func (m medians) ratio(figure, impl string) float64 {
	if of := m[figure]["nethttp"]; of > 0 {
		return m[figure][impl] / of
	}
	return 0
}

// plotOptions are the flags of the command for plots.
type plotOptions struct {
	dir    string
	only   string // which of speed, bulk, memory and windows are measured
	draw   bool   // nothing is measured
	write  bool   // the tables are written
	rounds int
	quick  bool
}

// writePlots measures, and writes the plots and plots.json into a folder. What is not measured is
// drawn as plots.json has it.
func writePlots(o plotOptions) error {
	file := filepath.Join(o.dir, "plots.json")
	data, err := readPlots(file)
	if err != nil {
		return err
	}
	if !o.draw {
		if err := o.measure(data); err != nil {
			return err
		}
		if err := os.WriteFile(file, data.text(), 0o644); err != nil {
			return err
		}
	}
	for name, picture := range data.pictures() {
		if err := os.WriteFile(filepath.Join(o.dir, name), picture, 0o644); err != nil {
			return err
		}
	}
	fmt.Print(data.tables())
	if !o.write {
		return nil
	}
	return errors.Join(replaceSection("README.md", "plots", data.tables()),
		replaceSection("../../README.md", "costs", data.costs()))
}

// readPlots returns what a file holds, or nothing if there is no such file.
func readPlots(file string) (*plotData, error) {
	data := new(plotData)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return data, nil
	}
	if err != nil {
		return nil, err
	}
	return data, json.Unmarshal(text, data)
}

// text returns the data as JSON, with a line for each part.
func (d *plotData) text() []byte {
	var b bytes.Buffer
	v := reflect.ValueOf(*d)
	for i := range v.NumField() {
		part, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			panic("BUG: " + err.Error()) // numbers and texts can be encoded
		}
		if !v.Field(i).IsNil() {
			name, _, _ := bytes.Cut([]byte(v.Type().Field(i).Tag.Get("json")), []byte(","))
			fmt.Fprintf(&b, ",\n%q: %s", name, part)
		}
	}
	return append(append([]byte("{"), bytes.TrimPrefix(b.Bytes(), []byte(","))...), "\n}\n"...)
}

// measure measures the parts that -only matches. The clients of a part alternate in each round.
func (o plotOptions) measure(data *plotData) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	l, err := newLab(o.rounds)
	if err != nil {
		return err
	}
	defer l.close()
	l.quick = o.quick
	if only.MatchString("speed") {
		if data.Speed, err = l.plotSpeed(); err != nil {
			return fmt.Errorf("speed: %w", err)
		}
	}
	if only.MatchString("bulk") {
		if data.Bulk, err = l.plotBulk(); err != nil {
			return fmt.Errorf("bulk: %w", err)
		}
	}
	if only.MatchString("memory") {
		if data.Memory, err = l.plotMemory(); err != nil {
			return fmt.Errorf("memory: %w", err)
		}
	}
	if only.MatchString("windows") {
		if data.Windows, err = plotWindows(); err != nil {
			return fmt.Errorf("windows: %w", err)
		}
	}
	return nil
}
