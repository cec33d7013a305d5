//go:build !race

package nbdcopy

const raceDetector = false
