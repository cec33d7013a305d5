// Package edit changes XML documents by their tokens. What is not edited stays byte for byte:
// comments, CDATA, namespaces, entities, white space, the order and the quotes of attributes.
// It does no I/O, and builds without cgo.
//
//	doc, err := edit.Parse(text)
//	disk := doc.Root().Child("devices/disk")
//	disk.SetAttr("type", "file")
//	disk.Child("backingStore").Remove()
//	text, err = doc.Text()
//
// Names are compared as they are written, with the prefix of their namespace
// ("qemu:commandline"). libvirt writes its own elements without one.
package edit
