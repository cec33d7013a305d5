package adapt

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// start changes what the domain starts with: firmware, kernel, TPM, launch security.
func (a *adapter) start() {
	a.nvram()
	a.files(a.root.Child("os"))
	for _, tpm := range a.devices("tpm") {
		a.tpm(tpm)
	}
	if security := a.root.Child("launchSecurity"); security != nil {
		a.note("launch security (%s) is kept: its keys and its measurement are those of the processor that the domain ran on", security.Value("type"))
	}
}

// files leads to the restored files of <os>.
func (a *adapter) files(os *edit.Element) {
	for _, name := range []string{"loader", "kernel", "initrd", "dtb", "shim", "acpi/table"} {
		for _, e := range os.Children(name) {
			if path := a.Files[e.Text()]; path != "" && path != e.Text() {
				a.note("<%s> is %s instead of %s", e.Name(), path, e.Text())
				e.SetText(path)
			}
		}
	}
	if loader := os.Child("loader"); a.renamed() && loader.Value("readonly") == "no" && !slices.Contains(slices.Collect(maps.Values(a.Files)), loader.Text()) {
		a.note("the firmware is kept in %s, which the original also writes to", loader.Text())
	}
	a.varStore(os.Child("varstore"))
}

// varStore is for <varstore> what nvram is for <nvram>.
func (a *adapter) varStore(store *edit.Element) {
	old := store.Value("path")
	switch path := a.Files[old]; {
	case path != "" && path != old:
		a.note("the firmware's variables (<varstore>) are in %s", path)
		store.SetAttr("path", path)
	case path == "" && old != "" && a.renamed():
		store.SetAttr("path", a.inDir(a.fileName()+"_VARS.json"))
		a.note("the firmware's variables are not in the point: libvirt makes new ones in %s instead of %s", store.Value("path"), old)
	}
}

// nvram leads to the restored file of the firmware's variables. Without one, another domain
// gets a file of its own, which libvirt makes from the firmware's template.
func (a *adapter) nvram() {
	nvram := a.root.Child("os/nvram")
	switch {
	case a.NVRAM.Path != "":
		if nvram == nil { // libvirt chose the file
			nvram = a.add(a.root.Child("os"), "<nvram/>")
		}
		a.setNVRAM(nvram, a.NVRAM)
		a.note("the firmware's variables (<nvram>) are in %s", a.NVRAM.Path)
	case nvram == nil:
		return
	case a.renamed():
		path := a.inDir(a.fileName() + "_VARS.fd")
		a.setNVRAM(nvram, File{Path: path, Format: nvram.Value("format")})
		a.note("the firmware's variables are not in the point: libvirt makes new ones in %s", path)
	default:
		a.note("the firmware's variables are not in the point: where %s is missing, libvirt makes new ones", nvramPath(nvram))
	}
}

func nvramPath(nvram *edit.Element) string {
	if source := nvram.Child("source"); source != nil {
		return source.Value("file") + source.Value("dev") + source.Value("name")
	}
	return nvram.Text()
}

func (a *adapter) setNVRAM(nvram *edit.Element, file File) {
	if _, ok := nvram.Attr("format"); ok || file.Format == "qcow2" {
		nvram.SetAttr("format", cmp.Or(file.Format, "raw"))
	}
	if nvram.Value("type") == "file" {
		strip(nvram.Child("source"))
		nvram.Child("source").SetAttr("file", file.Path)
		return
	}
	nvram.RemoveAttr("type")
	nvram.SetText(file.Path)
}

// tpm treats the state of an emulated TPM, which swtpm keeps in a place that libvirt derives
// from the UUID, or which <source> names.
func (a *adapter) tpm(tpm *edit.Element) {
	backend := tpm.Child("backend")
	switch backend.Value("type") {
	case "emulator":
		source := backend.Child("source")
		if path := a.Files[source.Value("path")]; path != "" {
			a.note("the state of the TPM is in %s instead of %s", path, source.Value("path"))
			source.SetAttr("path", path)
			return
		}
		if source != nil && (a.renamed() || a.TPM) {
			a.note("the TPM keeps its state where libvirt chooses, no longer in %s", source.Value("path"))
			source.Remove()
		}
		switch {
		case !a.TPM && !a.renamed() && source == nil:
			a.note("the state of the TPM is not in the point: where this host has none of the domain, it begins empty, and the guest asks for the recovery keys of what was bound to it (BitLocker, LUKS)")
		case !a.TPM:
			a.note("the state of the TPM is not in the point: it begins empty, and the guest asks for the recovery keys of what was bound to it (BitLocker, LUKS)")
		}
	case "passthrough":
		a.note("the TPM %s of the host is kept: only one running domain can have it", backend.Child("device").Value("path"))
	case "external":
		a.note("the TPM's socket %s is kept: its emulator has to be there", backend.Child("source").Value("path"))
	}
}

// fileName is the domain's name as the beginning of file names.
func (a *adapter) fileName() string {
	return strings.ReplaceAll(a.root.Child("name").Text(), "/", "_")
}

// inDir returns a path in Dir that nothing else has here.
func (a *adapter) inDir(name string) string {
	path := filepath.Join(a.Dir, name)
	for a.taken[path] {
		ext := filepath.Ext(path)
		path = strings.TrimSuffix(path, ext) + "-2" + ext
	}
	a.taken[path] = true
	return path
}
