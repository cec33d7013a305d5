// Package realguest tests that the points of a real system can be used: a Debian guest with
// systemd and PostgreSQL, backed up while it works. Each point is defined as another domain and
// booted. That takes ten minutes, so the tests have the build tag realguest, and make realguest
// runs them.
package realguest
