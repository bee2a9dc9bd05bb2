package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// A chromium is a browser that is controlled by its DevTools protocol, over a pipe.
type chromium struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	id      int
	session string
}

// startChromium starts a browser without a window, and attaches to a page with this URL. The test
// is skipped if there is no Chromium.
func startChromium(t *testing.T, url string) *chromium {
	path := find(t, "chromium", "chromium-browser", "google-chrome")
	commands, in, err := os.Pipe()
	check(t, err)
	out, answers, err := os.Pipe()
	check(t, err)
	cmd := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
		"--user-data-dir="+t.TempDir(), "--window-size=1400,800", "about:blank")
	cmd.ExtraFiles = []*os.File{commands, answers} // the descriptors 3 and 4
	check(t, cmd.Start())
	commands.Close()
	answers.Close()
	c := &chromium{t: t, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		c.send("Browser.close", nil)
		in.Close()
		out.Close()
		cmd.Wait()
	})
	target := c.call("Target.createTarget", map[string]any{"url": url})
	c.session = c.call("Target.attachToTarget",
		map[string]any{"targetId": target["targetId"], "flatten": true})["sessionId"].(string)
	return c
}

// send sends a command and returns its number.
func (c *chromium) send(method string, params map[string]any) int {
	c.id++
	command := map[string]any{"id": c.id, "method": method, "params": params}
	if c.session != "" && method != "Browser.close" {
		command["sessionId"] = c.session
	}
	text, err := json.Marshal(command)
	check(c.t, err)
	c.in.Write(append(text, 0))
	return c.id
}

// call sends a command and returns its result.
func (c *chromium) call(method string, params map[string]any) map[string]any {
	c.t.Helper()
	id := c.send(method, params)
	for {
		text, err := c.out.ReadBytes(0)
		check(c.t, err)
		var answer struct {
			ID     int
			Result map[string]any
			Error  any
		}
		check(c.t, json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &answer))
		if answer.ID != id {
			continue // an event
		}
		if answer.Error != nil {
			c.t.Fatalf("%s: %v", method, answer.Error)
		}
		return answer.Result
	}
}

// eval runs the body of an async JavaScript function in the page until it returns a text that is
// not empty, for at most a minute.
func (c *chromium) eval(body string) string {
	c.t.Helper()
	expression := "(async () => { try {" + body + "} catch (e) { return 'error: ' + e; } })()"
	text, deadline := "", time.Now().Add(time.Minute)
	for ; time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		result := c.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true,
			"returnByValue": true})
		value, _ := result["result"].(map[string]any)
		if text, _ = value["value"].(string); text != "" && !strings.HasPrefix(text, "error: ") {
			return text
		}
	}
	c.t.Fatalf("the page returned %q", text)
	return ""
}

// save writes a picture of the page to the directory in HYPER_PICTURES, if that is set.
func (c *chromium) save(name string) {
	dir := os.Getenv("HYPER_PICTURES")
	if dir == "" {
		return
	}
	var picture []byte
	text, err := json.Marshal(c.call("Page.captureScreenshot", nil)["data"])
	check(c.t, err)
	check(c.t, json.Unmarshal(text, &picture))
	check(c.t, os.WriteFile(filepath.Join(dir, name), picture, 0o644))
}

// tracedSession makes requests on one connection with these traces.
func tracedSession(t *testing.T, cfg *hyper.Config) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Got", http.StatusText(int(n)))
		io.WriteString(w, strings.Repeat("hello ", 2000))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{}
	}
	cfg.TLS.InsecureSkipVerify = true
	conn, err := hyper.Dial(context.Background(), server.URL, cfg)
	check(t, err)
	defer conn.Close()
	var calls sync.WaitGroup
	for _, path := range []string{"/one", "/two?q=1", "/three"} {
		calls.Go(func() {
			resp, err := conn.Do(context.Background(), &hyper.Request{Method: "POST", Path: path,
				Body: strings.NewReader(strings.Repeat("body", 1000))})
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	calls.Wait()
}

// Chromium's network panel shows what a hyper.HAR has recorded.
func TestChromiumOpensTheHAR(t *testing.T) {
	var har hyper.HAR
	tracedSession(t, &hyper.Config{Trace: har.Trace})
	var text bytes.Buffer
	_, err := har.WriteTo(&text)
	check(t, err)
	quoted, err := json.Marshal(text.String())
	check(t, err)
	c := startChromium(t, "devtools://devtools/bundled/devtools_app.html?panel=network")
	got := c.eval(`const UI = await import('./ui/legacy/legacy.js');
		const Network = await import('./panels/network/network.js');
		const Logs = await import('./models/logs/logs.js');
		await UI.ViewManager.ViewManager.instance().showView('network');
		const panel = Network.NetworkPanel.NetworkPanel.instance();
		await panel.networkLogView.onLoadFromFile(new File([` + string(quoted) + `], 'hyper.har'));
		const requests = Logs.NetworkLog.NetworkLog.instance().requests();
		if (requests.length < 3) return '';
		await new Promise(done => setTimeout(done, 1000));
		return requests.map(r => [r.requestMethod, new URL(r.url()).pathname, r.statusCode, r.resourceSize,
			r.protocol, r.duration > 0].join(' ')).sort().join('\n');`)
	want := "POST /one 200 12000 h2 true\nPOST /three 200 12000 h2 true\nPOST /two 200 12000 h2 true"
	if got != want {
		t.Errorf("the panel shows\n%s\nwant\n%s", got, want)
	}
	c.save("har.png")
}

// The page of a hyper.Waterfall works in Chromium, and shows all streams.
func TestChromiumShowsTheWaterfall(t *testing.T) {
	var waterfall hyper.Waterfall
	tracedSession(t, &hyper.Config{Trace: waterfall.Trace})
	name := filepath.Join(t.TempDir(), "waterfall.html")
	file, err := os.Create(name)
	check(t, err)
	_, err = waterfall.WriteTo(file)
	check(t, err)
	check(t, file.Close())
	c := startChromium(t, "file://"+name)
	got := c.eval(`const rows = [...document.querySelectorAll('.row')];
		if (rows.length === 0) return '';
		const curves = document.querySelectorAll('.curve').length;
		rows[0].dispatchEvent(new MouseEvent('mousemove', {clientX: 10, clientY: 10}));
		const tip = document.getElementById('tip');
		return [rows.length, curves >= 4, tip.style.display, tip.textContent.includes('POST https://'),
			performance.getEntriesByType('resource').length].join(' ');`)
	if want := "3 true block true 0"; got != want {
		t.Errorf("the page shows %q, want %q", got, want)
	}
}
