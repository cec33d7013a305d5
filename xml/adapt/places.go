package adapt

import (
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// characterDevices moves the files and sockets of serial ports, consoles and the like
// where they would collide with those of the original, or where their directory is
// not on this host. The first console of a domain is its first serial port over again, so the
// same path becomes the same path.
func (a *adapter) characterDevices() {
	for _, kind := range []struct{ element, name string }{{"serial", "serial port"}, {"console", "console"}, {"parallel", "parallel port"}, {channel, channel},
		{"redirdev", "USB redirection"}, {"smartcard", "smartcard"}, {"rng/backend", "random number generator"}} {
		for _, device := range a.devices(kind.element) {
			a.characterDevice(kind.name, device)
		}
	}
	for _, audio := range a.devices("audio") {
		a.move(audio, "path", "file of the audio device")
	}
}

const channel = "channel"

func (a *adapter) characterDevice(kind string, device *edit.Element) {
	source := device.Child("source")
	switch device.Value("type") {
	case "file":
		a.move(source, "path", "file of the "+kind)
	case "unix":
		a.socket(kind, source)
	case "pty":
		source.Remove() // the terminal of one run
		device.RemoveAttr("tty")
	case "dev", "pipe":
		if a.renamed() {
			a.note("the %s on %s is kept: only one running domain can have it", kind, source.Value("path"))
		}
	case "tcp", "udp":
		if a.renamed() && (source.Value("mode") == "bind" || device.Value("type") == "udp") {
			a.note("the %s on port %s is kept: only one running domain can have it", kind, source.Value("service"))
		}
	}
	a.move(device.Child("log"), "file", "log of the "+kind)
}

// socket moves a socket that QEMU listens on. Without a path libvirt chooses one for a channel.
func (a *adapter) socket(kind string, source *edit.Element) {
	path := source.Value("path")
	switch {
	case path == "" || source.Value("mode") == "connect":
	case kind != channel:
		a.move(source, "path", "socket of the "+kind)
	case libvirts(path):
		source.Remove() // libvirt chose it, for the name or the id of the original
	case a.collides(path):
		source.Remove()
		a.note("libvirt chooses the socket of the channel that was on %s", path)
	}
}

// libvirts says whether libvirt has made up the path of a socket.
func libvirts(path string) bool {
	for _, dir := range []string{"/var/lib/libvirt/qemu/", "/run/libvirt/qemu/", "/var/run/libvirt/qemu/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// collides says whether a file or socket cannot stay where it is.
func (a *adapter) collides(path string) bool {
	return a.renamed() || !a.Exists(filepath.Dir(path))
}

// move leads an attribute of e to a path in Dir, if the one that it has cannot stay.
func (a *adapter) move(e *edit.Element, attr, what string) {
	old := e.Value(attr)
	if old == "" || !a.collides(old) {
		return
	}
	path, known := a.moved[old]
	if !known {
		if a.renamed() {
			a.taken[old] = true
		}
		path = a.inDir(filepath.Base(old))
		a.moved[old] = path
	}
	if !known && path != old {
		a.note("the %s is in %s instead of %s", what, path, old)
	}
	e.SetAttr(attr, path)
}

// graphics frees the domain of fixed ports and sockets.
func (a *adapter) graphics() {
	for _, g := range a.devices("graphics") {
		for _, e := range append(g.Children("listen"), g) {
			a.displaySocket(g, e)
		}
		if g.Value("autoport") == "yes" {
			for _, port := range []string{"port", "tlsPort"} {
				if _, ok := g.Attr(port); ok && g.Value(port) != "-1" {
					g.SetAttr(port, "-1") // the port of one run
				}
			}
		}
		if a.renamed() {
			a.displayPort(g)
		}
	}
}

// displaySocket lets libvirt choose the path of a display's socket.
func (a *adapter) displaySocket(g, e *edit.Element) {
	path := e.Value("socket")
	if path == "" || !libvirts(path) && !a.collides(path) {
		return
	}
	e.RemoveAttr("socket")
	if e == g && g.Child("listen") == nil { // the old form, which cannot do without
		a.add(g, "<listen type='socket'/>")
	}
	if !libvirts(path) {
		a.note("libvirt chooses the socket of the %s display, which was %s", g.Value("type"), path)
	}
}

func (a *adapter) displayPort(g *edit.Element) {
	fixed := ""
	for _, port := range []string{"port", "tlsPort", "websocket"} {
		if value := g.Value(port); value != "" && value != "-1" && value != "0" {
			fixed += " " + value
			g.SetAttr(port, "-1")
		}
	}
	if fixed == "" {
		return
	}
	if _, ok := g.Attr("autoport"); ok {
		g.SetAttr("autoport", "yes")
	}
	a.note("libvirt chooses the ports of the %s display, which were%s", g.Value("type"), fixed)
}
