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

	"gohyper.dev/hyper/internal/bench/work"
	"gohyper.dev/hyper/internal/h2test"
)

// An nghttpd is a server in C. Against a server in Go, the wake-ups that the server causes hide a
// part of the differences between clients.
type nghttpd struct {
	origin string
	cmd    *exec.Cmd
	dir    string
}

// startNghttpd starts nghttpd, with further flags. It returns nil if nghttpd is not installed.
func startNghttpd(flags ...string) (*nghttpd, error) {
	program, err := exec.LookPath("nghttpd")
	if err != nil {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	s := &nghttpd{dir: dir}
	if err := s.start(program, flags); err != nil {
		s.close()
		return nil, fmt.Errorf("nghttpd: %w", err)
	}
	return s, nil
}

// start writes the server's files and starts it on a free port.
func (s *nghttpd) start(program string, flags []string) error {
	certificate := h2test.Certificate()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"1k":       make([]byte, 1<<10),
		"1k.grpc":  work.GRPCMessage(1 << 10),
		"types":    []byte("application/grpc grpc\n"),
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "256m"), nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(filepath.Join(s.dir, "256m"), 256<<20); err != nil { // without blocks on the disk
		return err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := strconv.Itoa(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	s.origin = "https://127.0.0.1:" + port
	var wrong bytes.Buffer
	args := append([]string{"-d", s.dir, "-n", "1", "-m", "2000", "-w", "20", "-W", "24", "-a", "127.0.0.1",
		"--mime-types-file=" + filepath.Join(s.dir, "types")}, flags...)
	s.cmd = pinned("0", program, append(args, port, filepath.Join(s.dir, "key.pem"),
		filepath.Join(s.dir, "cert.pem"))...)
	s.cmd.Stderr = &wrong
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	for range 1000 {
		if nc, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			return nc.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("it does not answer: %s", wrong.String())
}

// close stops the server and removes its files.
func (s *nghttpd) close() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
	os.RemoveAll(s.dir)
}
