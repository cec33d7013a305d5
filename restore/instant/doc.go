// Package instant makes a domain run from a point at once, whatever its size: its images are
// overlays on the point, which a server shows (package serve), and QEMU pulls what is missing into
// them while the guest runs. In the end they stand alone.
//
// What is under way is written down in one place, the pin of the point (keep.Runs): it is there before
// anything is made, and goes last. So whoever finds it can go on, or take the domain away,
// whatever was killed. Who is at work holds a lock on it.
//
// If the server is gone the guest meets I/O errors, and pauses instead of seeing them
// (error_policy, rerror_policy); it goes on when the server is there again.
package instant
