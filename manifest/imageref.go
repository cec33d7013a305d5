package manifest

// ImageRef names an image within a domain.
type ImageRef struct {
	Point string // id
	Image string // file name in the point's directory
}
