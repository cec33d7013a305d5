//go:build race

package restore

// raceDetector keeps shadow memory of four times and more what a program uses.
const raceDetector = true
