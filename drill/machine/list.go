package machine

// element is what of an element is taken over: these attributes, its text, and these elements
// in it. All else is left out.
type element struct {
	attrs    []string
	text     bool
	children map[string]element
}

// These lists are all that the drill's domain has of the point's, besides what document.go
// writes itself. Nothing in them is a path, a name of another object of the host, or a limit.

// switches are elements that are there, or are on or off.
var switches = element{attrs: []string{"state", "mode", "value", "retries", "vendor_id", "policy"}}

// named gives each of the names the same list.
func named(list element, names ...string) map[string]element {
	all := map[string]element{}
	for _, name := range names {
		all[name] = list
	}
	return all
}

// with adds to a list.
func with(all map[string]element, name string, list element) map[string]element {
	all[name] = list
	return all
}

var features = element{children: with(with(with(with(with(named(switches,
	"acpi", "pae", "hap", "viridian", "privnet", "pmu", "vmport", "vmcoreinfo", "htm", "nested-hv", "msrs", "ccf-assist", "ibs", "cfpc", "sbbc"),
	"apic", element{attrs: []string{"eoi"}}),
	"gic", element{attrs: []string{"version"}}),
	"ioapic", element{attrs: []string{"driver"}}),
	"hyperv", element{attrs: []string{"mode"}, children: with(named(switches,
		"relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "reset", "vendor_id", "frequencies", "reenlightenment", "tlbflush", "ipi", "avic", "emsr_bitmap", "xmm_input"),
		"stimer", element{attrs: switches.attrs, children: named(switches, "direct")})}),
	"kvm", element{children: named(switches, "hidden", "hint-dedicated", "poll-control", "pv-ipi")}),
}

// smm is that of features, apart: its size is an element.
var smm = element{attrs: []string{"state"}, children: named(element{attrs: []string{"unit"}, text: true}, "tseg")}

var cpu = element{
	attrs: []string{"mode", "match", "check", "migratable"},
	children: map[string]element{
		"model":       {attrs: []string{"fallback", "vendor_id"}, text: true},
		"vendor":      {text: true},
		"feature":     {attrs: []string{"policy", "name"}},
		"cache":       {attrs: []string{"level", "mode"}},
		"maxphysaddr": {attrs: []string{"mode", "bits", "limit"}},
	},
}

var topology = element{attrs: []string{"sockets", "dies", "clusters", "cores", "threads"}}

var clock = element{
	attrs: []string{"adjustment", "basis"},
	children: map[string]element{
		"timer": {attrs: []string{"name", "tickpolicy", "present", "track", "mode", "frequency"}},
	},
}

// osType is the architecture and the machine.
var osType = element{attrs: []string{"arch", "machine"}, text: true}

var firmwareFeatures = element{children: named(element{attrs: []string{"enabled", "name"}}, "feature")}

var boot = element{attrs: []string{"dev"}}

var address = element{attrs: []string{"type", "domain", "bus", "slot", "function", "multifunction", "controller", "target", "unit", "port", "cssid", "ssid", "devno", "reg"}}

// controllerTypes are those that a disk or the agent's channel may need, or a bus that they are on.
var controllerTypes = []string{"pci", "ide", "sata", "scsi", "usb", "fdc", "virtio-serial"}

var controller = element{
	attrs: []string{"type", "index", "model", "ports", "vectors"},
	children: map[string]element{
		"model":   {attrs: []string{"name"}},
		"target":  {attrs: []string{"chassis", "chassisNr", "port", "busNr", "index", "hotplug"}},
		"driver":  {attrs: []string{"queues", "ats", "packed"}},
		"master":  {attrs: []string{"startport"}},
		"address": address,
	},
}

var disk = map[string]element{
	"target":  {attrs: []string{"dev", "bus", "removable", "rotation_rate"}},
	"serial":  {text: true},
	"wwn":     {text: true},
	"vendor":  {text: true},
	"product": {text: true},
	"blockio": {attrs: []string{"logical_block_size", "physical_block_size"}},
	"boot":    {attrs: []string{"order"}},
	"address": address,
}

// port is where a console is in the guest.
var port = element{attrs: []string{"type", "port"}, children: named(element{attrs: []string{"name"}}, "model")}

var video = element{children: map[string]element{
	"model":   {attrs: []string{"type", "ram", "vram", "vram64", "vgamem", "heads", "primary"}},
	"address": address,
}}
