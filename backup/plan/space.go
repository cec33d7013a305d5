package plan

import "github.com/virtbackup/virtbackup/hashlist"

// Size is the sum of the sizes of all disks that are copied, in bytes.
func (p *Plan) Size() (n int64) {
	for _, d := range p.Disks {
		n += d.Size
	}
	return n
}

// Need is how many bytes the point will take in the repository, as far as that is known
// beforehand. data returns how many bytes of a disk will be copied, or a negative number if
// that is unknown.
func (p *Plan) Need(data func(Disk) int64) (n int64) {
	for _, d := range p.Disks {
		if bytes := data(d); bytes >= 0 {
			n += d.Takes(bytes)
		}
	}
	return n
}

// Bytes returns data of each disk, by target.
func (p *Plan) Bytes(data func(Disk) int64) map[string]int64 {
	all := map[string]int64{}
	for _, d := range p.Disks {
		all[d.Target] = data(d)
	}
	return all
}

// Estimate is libvirt's estimate for a disk. For a rescan it is unknown until the disk has
// been compared with its parent.
func (d Disk) Estimate() int64 {
	if d.Rescan {
		return -1
	}
	return d.Expected
}

// Takes is how many bytes an image of 64 KiB clusters with that much data takes, with its
// hash list.
func (d Disk) Takes(data int64) int64 { return data + metadata(data, d.Zeros, d.Size) }

// ImageCluster is the size of our images' clusters in bytes, package qcow2's own.
const ImageCluster = 64 << 10

// metadata is how many bytes an image and its hash list take besides the data: the L2
// tables that data or zeros need (one for 512 MiB), 2 bytes of refcount for each cluster,
// four clusters for the rest, and the hash list of all that.
func metadata(data, zeros, size int64) int64 {
	const covered = 512 << 20
	clusters := (data + ImageCluster - 1) / ImageCluster
	tables := min(clusters+(zeros+ImageCluster-1)/ImageCluster, (size+covered-1)/covered)
	image := (4+tables)*ImageCluster + 2*clusters
	return image + hashlist.FileSize(data+image)
}
