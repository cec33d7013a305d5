package restores

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/xml"
	"github.com/virtbackup/virtbackup/xml/adapt"
)

// libvirt defines the adapted XML of every real domain whose XML, but for its name, it defines
// on this host, and finds the images that were restored in it.
func TestRealDomainsAreDefined(t *testing.T) {
	t.Parallel()
	_ = testdomain.Define(t, testdomain.Disk{Target: "vda", Size: mib}) // libvirtd is up
	files, err := filepath.Glob(filepath.Join(testdomain.Root(t), "xml/adapt/testdata/*.xml"))
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	kvm := hasKVM(t)
	defined := 0
	for _, file := range files {
		if filepath.Base(file) == "microvm.xml" {
			continue // libvirt 9.0 refuses a machine without PCI, and the daemon of 11.3 crashes
		}
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !kvm {
			doc = []byte(emulated.Replace(string(doc)))
		}
		if name := testdomain.NewName(); tryDefine(t, name, string(doc), adapt.Request{Name: name, Dir: "/var/tmp/vbtest-none"}) != nil {
			t.Logf("%s: not on this host", filepath.Base(file))
			continue
		}
		defined++
		request := adapt.Request{Name: testdomain.NewName(), Dir: "/var/tmp/vbtest-none"}
		domain, err := xml.ParseDomain(string(doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range domain.Disks {
			if d.Unfit() == "" {
				request.Disks = append(request.Disks, adapt.Disk{Target: d.Target, Image: fmt.Sprintf("%s/%s.%s", request.Dir, d.Target, d.Format), Format: d.Format})
			}
		}
		if err := tryDefine(t, request.Name, string(doc), request); err != nil {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
	}
	if defined < 12 { // Debian 13 has SPICE in a package of its own
		t.Errorf("only %d of %d domains can be defined here", defined, len(files))
	}
}

// hasKVM tells whether libvirt defines domains of the type kvm: it needs /dev/kvm for that.
func hasKVM(t *testing.T) bool {
	_, err := testdomain.TryVirsh(t, "domcapabilities", "--virttype", "kvm")
	return err == nil
}

// emulated makes a domain of the type qemu of one of the type kvm.
var emulated = strings.NewReplacer("<domain type='kvm'", "<domain type='qemu'", "mode='host-passthrough'", "mode='maximum'")

// tryDefine defines a domain, looks at its disks, and removes it.
func tryDefine(t *testing.T, name, doc string, request adapt.Request) error {
	t.Helper()
	adapted, err := adapt.Domain(doc, request)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "domain.xml")
	testsite.WriteFile(t, file, adapted.XML)
	if _, err := testdomain.TryVirsh(t, "define", "--validate", file); err != nil {
		return err
	}
	t.Cleanup(func() { testdomain.TryVirsh(t, "undefine", name, "--keep-nvram") })
	disks := sources(t, name)
	for _, d := range request.Disks {
		if disks[d.Target] != d.Image {
			t.Errorf("disk %s of %s is %s", d.Target, adapted.Name, disks[d.Target])
		}
	}
	return nil
}
