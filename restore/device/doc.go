// Package device writes to block devices, and sees to it that nobody else uses them: file
// systems, the kernel's own users of devices, other processes.
package device
