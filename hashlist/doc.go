// Package hashlist proves images by lists of hashes: a list has a BLAKE3 hash for each range
// of an image, and is itself proven by one digest. Writer makes a list while an image is
// written, Reader returns what was proven only, and Check compares all of an image with its
// list and says where they differ.
//
// It knows no restore points, no manifests and no paths: an image and its list are what can
// be read at an offset, and what the list should be is given (List).
package hashlist
