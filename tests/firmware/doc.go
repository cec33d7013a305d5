// Package firmware has the tests in which real firmware boots a guest. Under TCG that takes a
// minute, so they have the build tag firmware, and make test-all runs them.
package firmware
