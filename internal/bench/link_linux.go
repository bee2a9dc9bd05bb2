package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Values of linux/if_tun.h and linux/virtio_net.h.
const (
	tunSetIff     = 0x400454ca
	tunSetOffload = 0x400454d0

	iffTUN     = 0x0001
	iffNoPI    = 0x1000
	iffVnetHdr = 0x4000

	offloadChecksum = 0x01
	offloadTCP4     = 0x02

	// Each packet begins with a struct virtio_net_hdr.
	vnetHeader  = 10
	segmentAt   = 4  // of gso_size in it
	ipTCPHeader = 52 // of IPv4 and TCP with timestamps, which each segment repeats
	maxPacket   = 64<<10 + vnetHeader
)

// offloadFrom is the rate, in bits per second, from which the kernel hands over packets of up to 64
// KiB, which stand for many segments. Below it, each packet is as on a real wire.
const offloadFrom = 500e6

// packetsInFlight is how many packets a link holds in each direction. It drops what comes beyond.
const packetsInFlight = 1 << 16

// Addresses of the two ends.
const (
	serverAddr = "10.98.7.1"
	clientAddr = "10.98.7.2"
	subnet     = "10.98.7.0/24"
)

// A network is two network namespaces, one for the server and one for the client, and a link
// between them. The link is a TUN device on each side, and goroutines that forward packets, so it
// needs no queueing discipline of the kernel's.
type network struct {
	names   [2]string // of the namespaces: the server's, the client's
	devices [2]*os.File
	wg      sync.WaitGroup
}

// newNetwork makes the namespaces and the link that p describes. The error is errNoNetwork where
// this machine or this user cannot. The caller closes the network.
func newNetwork(ctx context.Context, p path) (_ *network, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", errNoNetwork)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoNetwork, err)
	}
	n := &network{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for i, side := range []string{"server", "client"} {
		name := namespacePrefix() + side
		if err := sh(ctx, "ip", "netns", "add", name); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoNetwork, err)
		}
		n.names[i] = name
		addr := []string{serverAddr, clientAddr}[i]
		if err := n.plug(ctx, i, addr, p); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoNetwork, err)
		}
	}
	for i := range n.devices {
		in, out := n.devices[i], n.devices[1-i]
		due := make(chan packet, packetsInFlight)
		n.wg.Go(func() { receive(in, &shaper{rate: p.Rate, delay: p.RTT / 2, queue: p.queue()}, due) })
		n.wg.Go(func() { deliver(out, due) })
	}
	return n, nil
}

// plug makes the TUN device of one side and configures its namespace.
func (n *network) plug(ctx context.Context, side int, addr string, p path) error {
	device := fmt.Sprintf("bt%d%c", os.Getpid(), "sc"[side])
	f, err := openTUN(device, p.Rate >= offloadFrom)
	if err != nil {
		return err
	}
	n.devices[side] = f
	name := n.names[side]
	// The buffers must not limit 1 Gbit/s × 100 ms. What one connection has learned of the path
	// must not change the next.
	sysctl := []string{"ip", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.tcp_no_metrics_save=1",
		"net.ipv4.tcp_rmem=4096 131072 67108864", "net.ipv4.tcp_wmem=4096 65536 67108864"}
	for _, command := range [][]string{
		{"ip", "link", "set", device, "netns", name},
		{"ip", "-n", name, "link", "set", "lo", "up"},
		{"ip", "-n", name, "addr", "add", addr + "/24", "dev", device},
		{"ip", "-n", name, "link", "set", device, "mtu", "1500", "txqueuelen", "10000", "up"},
		// A namespace may not set each congestion control as its default, but a route may have any.
		{"ip", "-n", name, "route", "replace", subnet, "dev", device, "proto", "kernel", "src", addr,
			"congctl", p.Congestion},
		sysctl,
	} {
		if err := sh(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// close ends the link and removes the namespaces.
func (n *network) close() {
	for _, f := range n.devices {
		if f != nil {
			f.Close()
		}
	}
	n.wg.Wait()
	for _, name := range n.names {
		if name != "" {
			sh(context.Background(), "ip", "netns", "del", name)
		}
	}
}

// inside returns the command that runs a program in the server's namespace (0) or the client's (1).
func (n *network) inside(side int, command ...string) []string {
	return append([]string{"ip", "netns", "exec", n.names[side]}, command...)
}

// sh runs a command. Its error has what the command wrote.
func sh(ctx context.Context, command ...string) error {
	if text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}

// openTUN makes a TUN device. It exists until it is closed.
func openTUN(device string, offload bool) (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	var request [40]byte // struct ifreq
	copy(request[:syscall.IFNAMSIZ-1], device)
	binary.NativeEndian.PutUint16(request[syscall.IFNAMSIZ:], iffTUN|iffNoPI|iffVnetHdr)
	_, _, code := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), tunSetIff,
		uintptr(unsafe.Pointer(&request)))
	if code == 0 && offload {
		_, _, code = syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), tunSetOffload,
			offloadChecksum|offloadTCP4)
	}
	if code != 0 {
		syscall.Close(fd)
		return nil, fmt.Errorf("TUN device %s: %w", device, code)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// A packet is what a link carries, with the header of its device.
type packet struct {
	leaves time.Time
	bytes  []byte
}

// receive reads the packets of a device and gives those that the shaper admits to deliver. It
// returns when the device is closed.
func receive(in *os.File, s *shaper, due chan<- packet) {
	defer close(due)
	buf := make([]byte, maxPacket)
	for {
		n, err := in.Read(buf)
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if n <= vnetHeader {
			continue
		}
		leaves, ok := s.admit(time.Now(), onWire(buf[:n]))
		if !ok {
			continue
		}
		select {
		case due <- packet{leaves, append([]byte(nil), buf[:n]...)}:
		default: // dropped
		}
	}
}

// onWire returns how many bytes a packet has once it is cut into segments.
func onWire(p []byte) int {
	n := len(p) - vnetHeader
	segment := int(binary.NativeEndian.Uint16(p[segmentAt:]))
	if p[1] == 0 || segment == 0 { // not segmented
		return n
	}
	return n + (n-ipTCPHeader-1)/segment*ipTCPHeader
}

// deliver writes each packet to a device when it leaves the link.
func deliver(out *os.File, due <-chan packet) {
	for p := range due {
		for d := time.Until(p.leaves); d > 0; d = time.Until(p.leaves) {
			// time.Sleep would be late by up to a millisecond.
			pause := syscall.NsecToTimespec(int64(d))
			syscall.Nanosleep(&pause, nil)
		}
		out.Write(p.bytes)
	}
}
