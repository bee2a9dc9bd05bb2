// This file runs the server.

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// A server is nghttpd, which serves a file of 1 KiB.
type server struct {
	url string
	cmd *exec.Cmd
}

// startServer starts the server, with its files in dir.
func startServer(dir string) (*server, error) {
	certificate := h2test.Certificate()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"1k":       make([]byte, 1<<10),
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	var wrong bytes.Buffer
	s := &server{url: "https://127.0.0.1:" + port + "/1k"}
	s.cmd = exec.Command("taskset", "-c", "0", "nghttpd", "-d", dir, "-n", "1", "-m", "2000", "-w", "20",
		"-W", "24", "-a", "127.0.0.1", port, filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem"))
	s.cmd.Stderr = &wrong
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if nc, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			return s, nc.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.close()
	return nil, fmt.Errorf("nghttpd does not answer: %s", wrong.String())
}

// close stops the server.
func (s *server) close() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}
