package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/prune"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/retention"
)

func pruneCommand() *cli.Command {
	return &cli.Command{
		Name:      "prune",
		Usage:     "remove points by rules or by name, and free their space",
		ArgsUsage: "DOMAIN... | --all | DOMAIN --remove POINT[,POINT...] | DOMAIN --undo POINT | DOMAIN --materialise POINT",
		Description: "virtbackup prune vm1 --keep-daily 30 --dry-run    30 days, for ever\n" +
			"virtbackup prune --all --keep-daily 7 --keep-weekly 5 --keep-monthly 12\n" +
			"virtbackup prune vm1 --keep-within 2d --keep-weekly 8\n" +
			"virtbackup prune vm1 --remove check3,check5\n" +
			"virtbackup prune vm1 --undo check3                while its data is there\n\n" +
			"A point stays if one of the rules keeps it. Always kept are the newest point, the\n" +
			"newest that can be a base, the newest that passed verify, and protected ones. All\n" +
			"others are hidden at once. Their space is freed when no point needs them: what is\n" +
			"needed is merged into the next point that stays. libvirt is not asked.",
		Flags:  slices.Concat(ruleFlags(), namedFlags(), mergeFlags()),
		Action: pruneAction,
	}
}

// The options of prune that are rules, by the names that they have in package retention.
var rules = []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"}

func ruleFlags() (flags []cli.Flag) {
	what := map[string]string{
		"last": "the newest `N` points", "hourly": "the newest point of each of the last `N` hours that have one", "daily": "the newest point of each of the last `N` days",
		"weekly": "the newest point of each of the last `N` weeks", "monthly": "the newest point of each of the last `N` months", "yearly": "the newest point of each of the last `N` years",
	}
	for _, rule := range rules {
		flags = append(flags, &cli.IntFlag{Name: "keep-" + rule, Category: ofKeeping, Usage: "keep " + what[rule]})
	}
	return append(flags,
		&cli.StringFlag{Name: "keep-within", Category: ofKeeping, Usage: "keep all points of the last `SPAN` before the newest one: 36h, 14d, 2w, 6m, 1y"},
		&cli.StringFlag{Name: "timezone", Category: ofKeeping, Usage: "days begin at midnight in `ZONE`, such as Europe/Berlin or UTC (default: this host's)"},
	)
}

func namedFlags() []cli.Flag {
	return []cli.Flag{
		boolFlagOf(ofPruning, "all", "prune every domain of the repository"),
		boolFlagOf(ofPruning, "dry-run", "only say what would be done"),
		&cli.StringFlag{Name: "remove", Category: ofPruning, Usage: "remove just this `POINT`, or several with commas between them"},
		&cli.StringFlag{Name: "undo", Category: ofPruning, Usage: "list the removed `POINT` again (list --hidden shows which there are)"},
		&cli.StringFlag{Name: "materialise", Category: ofPruning, Usage: "make `POINT` a full of its own, from the points that it needs, which stay"},
	}
}

func mergeFlags() []cli.Flag {
	return []cli.Flag{
		boolFlagOf(ofMerging, "compact", "merge whatever can be merged now, even if that frees little"),
		&cli.IntFlag{Name: "max-hidden", Category: ofMerging, Value: prune.DefaultMaxHidden, Usage: "merge when more than `N` removed points are needed by one that stays"},
		&cli.StringFlag{Name: "limit-rate", Category: ofMerging, Usage: "read at most `BYTES` a second: 800K, 200M, 1G (powers of 1024)"},
		&cli.DurationFlag{Name: "max-duration", Category: ofMerging, Usage: "stop merging after `TIME`, such as 1h; the next prune goes on (default: no limit)"},
	}
}

// pruneMode is what a command line of prune asks for.
type pruneMode struct {
	option string   // that chooses it, "" for rules
	others []string // options that it takes
	do     func(c *cli.Context, repo *repository.Repository, domain, points string, o prune.Options) error
}

var pruneModes = []pruneMode{
	{"remove", []string{"dry-run", "compact", "max-hidden", "limit-rate", "max-duration"}, removePoints},
	{"undo", nil, undoPrune},
	{"materialise", []string{"limit-rate"}, materialise},
}

func pruneAction(c *cli.Context) error {
	options, err := mergeOptions(c)
	if err != nil {
		return err
	}
	for _, mode := range pruneModes {
		if c.IsSet(mode.option) {
			return pruneNamed(c, mode, options)
		}
	}
	keep, err := keepRules(c)
	if err != nil {
		return err
	}
	domains := c.Args().Slice()
	if c.Bool("all") == (len(domains) > 0) {
		return argumentError(c)
	}
	if err := refusePoints(c, domains); err != nil {
		return err
	}
	request := prune.Request{Rules: keep, DryRun: c.Bool("dry-run"), Options: options}
	if err := request.Validate(); err != nil {
		return err
	}
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	if len(domains) == 1 {
		request.Domain = domains[0]
		return pruneOne(c, repo, request)
	}
	if c.Bool("all") {
		if domains, err = repo.Domains(); err != nil {
			return err
		}
	}
	if len(domains) == 0 {
		return printDone(c, []prune.Result{}, func(w io.Writer) error { _, err := fmt.Fprintln(w, "no points yet"); return err })
	}
	return pruneEach(c, repo, request, domains)
}

// pruneNamed does what is done with points that are named.
func pruneNamed(c *cli.Context, mode pruneMode, o prune.Options) error {
	for _, f := range c.Command.Flags {
		if name := f.Names()[0]; c.IsSet(name) && name != mode.option && !slices.Contains(mode.others, name) && name != "help" {
			return fail.Errorf(fail.Usage, "leave out one of them", "--%s and --%s exclude each other", mode.option, name)
		}
	}
	domain, err := oneDomain(c)
	if err != nil {
		return err
	}
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	if _, err := listed(repo, domain); err != nil {
		return err
	}
	return mode.do(c, repo, domain, c.String(mode.option), o)
}

// refusePoints is the error for an argument DOMAIN@POINT: rules are for a domain.
func refusePoints(c *cli.Context, args []string) error {
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return nil // whoever needs it finds that, too
	}
	known, err := domainsOf(repo)
	if err != nil {
		return err
	}
	for _, arg := range args {
		domain, at, err := argument.Point(arg, known)
		if err == nil && at != "" && known(domain) {
			return fail.WithHint(fmt.Errorf("domain %s has no points in repository %s: %w", arg, repo.Dir(), manifest.ErrNoPoint),
				"virtbackup prune %s --remove %s removes just that point", manifest.ShellWord(domain), manifest.ShellWord(at))
		}
	}
	return nil
}

// keepRules reads the rules.
func keepRules(c *cli.Context) (r retention.Rules, err error) {
	numbers := map[string]*int{"last": &r.Last, "hourly": &r.Hourly, "daily": &r.Daily, "weekly": &r.Weekly, "monthly": &r.Monthly, "yearly": &r.Yearly}
	for _, rule := range rules {
		name := "keep-" + rule
		if *numbers[rule] = c.Int(name); c.IsSet(name) && c.Int(name) < 1 {
			return r, fail.Errorf(fail.Usage, "give a number of at least 1, or leave the rule out", "--%s cannot keep %d", name, c.Int(name))
		}
	}
	if c.IsSet("keep-within") {
		if r.Within, err = retention.ParseSpan(c.String("keep-within")); err != nil {
			return r, fmt.Errorf("--keep-within: %w", err)
		}
	}
	if c.IsSet("timezone") {
		r.Zone, err = argument.Zone(c.String("timezone"))
	}
	return r, err
}

// mergeOptions reads the options of merges.
func mergeOptions(c *cli.Context) (o prune.Options, err error) {
	if c.IsSet("max-hidden") && c.Int("max-hidden") < 1 {
		return o, fail.Errorf(fail.Usage, "--max-hidden 30; --compact merges now", "--max-hidden must be at least 1, not %d", c.Int("max-hidden"))
	}
	if c.IsSet("max-duration") && c.Duration("max-duration") <= 0 {
		return o, fail.Errorf(fail.Usage, "--max-duration 1h", "--max-duration must be more than 0, not %v", c.Duration("max-duration"))
	}
	o = prune.Options{Compact: c.Bool("compact"), MaxHidden: c.Int("max-hidden"), MaxDuration: c.Duration("max-duration")}
	o.Limits, err = newLimits(c)
	return o, err
}

// pruneOne prunes one domain and prints a report.
func pruneOne(c *cli.Context, repo *repository.Repository, request prune.Request) error {
	result, err := runPrune(c, repo, request, newProgress(c, "merged"), "")
	if err != nil {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Pruned(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

func pruneEach(c *cli.Context, repo *repository.Repository, request prune.Request, domains []string) error {
	show := newProgress(c, "merged")
	return several[prune.Result]{
		what: "pruned",
		do: func(domain string) (prune.Result, bool, error) {
			request := request
			request.Domain = domain
			result, err := runPrune(c, repo, request, show, nameOfSeveral(domain, domains))
			return result, len(result.Warnings) > 0, err
		},
		print: view.Pruned,
	}.run(c, domains)
}

// runPrune prunes a domain. What was done before an error is printed.
func runPrune(c *cli.Context, repo *repository.Repository, request prune.Request, show *terminal.Progress, name string) (prune.Result, error) {
	result, err := merging(c, request.Options, show, name, func(o prune.Options) (prune.Result, error) {
		request.Options = o
		return prune.Run(c.Context, repo, request)
	})
	if err != nil && len(result.Hidden)+len(result.Deleted)+len(result.Merged)+len(result.Held) > 0 {
		_ = view.Pruned(c.App.ErrWriter, result)
	}
	return result, err
}

// merging calls do with a log and a progress, which name the domain if there are several.
func merging(c *cli.Context, o prune.Options, show *terminal.Progress, name string, do func(prune.Options) (prune.Result, error)) (_ prune.Result, err error) {
	bars := show.Of(name)
	defer func() { bars.Close(err == nil) }()
	o.Log, o.Progress = reportLogger(c, bars).With(terminal.DomainKey, name), bars.Update
	return do(o)
}

// removePoints removes points that are named, with commas between them.
func removePoints(c *cli.Context, repo *repository.Repository, domain, points string, o prune.Options) error {
	request := prune.Request{Domain: domain, DryRun: c.Bool("dry-run"), Options: o}
	for _, at := range strings.Split(points, ",") {
		at, err := pointOf(domain, at, "--remove check3,check5")
		if err != nil {
			return err
		}
		id, err := onePoint(repo, domain, at)
		if err != nil {
			return err
		}
		request.Remove = append(request.Remove, id)
	}
	return pruneOne(c, repo, request)
}

// pointOf returns the POINT of an option, which may also be written DOMAIN@POINT.
func pointOf(domain, at, example string) (string, error) {
	at = strings.TrimPrefix(strings.TrimSpace(at), domain+"@")
	switch {
	case at == "":
		return "", fail.Errorf(fail.Usage, example, "no point is named")
	case !manifest.IsPointName(at):
		return "", fail.Errorf(fail.Usage, "virtbackup list "+manifest.ShellWord(domain)+" shows the points", "%q is no point of domain %s: neither an id, nor a time, nor latest", at, domain)
	}
	return at, nil
}

// unhidden is a removed point that is listed again, in JSON.
type unhidden struct {
	Domain string `json:"domain"`
	Point  string `json:"undone"`
}

func undoPrune(c *cli.Context, repo *repository.Repository, domain, point string, _ prune.Options) error {
	at, err := pointOf(domain, point, "--undo check3")
	if err != nil {
		return err
	}
	if _, _, err := manifest.ParsePointID(at); err != nil {
		return fail.Errorf(fail.Usage, "virtbackup list "+manifest.ShellWord(domain)+" --hidden shows the removed points", "--undo takes the id of a point, not %q", at)
	}
	if err := prune.Undo(c.Context, repo, domain, at); err != nil {
		return err
	}
	return printDone(c, unhidden{domain, at}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s of domain %s is listed again; the next prune removes it again, unless a rule keeps it or it is protected (virtbackup protect %s@%s)\n",
			at, domain, manifest.ShellWord(domain), at)
		return err
	})
}

func materialise(c *cli.Context, repo *repository.Repository, domain, point string, o prune.Options) error {
	at, err := pointOf(domain, point, "--materialise latest")
	if err != nil {
		return err
	}
	id, err := onePoint(repo, domain, at)
	if err != nil {
		return err
	}
	result, err := merging(c, o, newProgress(c, "merged"), "", func(o prune.Options) (prune.Result, error) {
		return prune.Materialise(c.Context, repo, domain, id, o)
	})
	if err != nil {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Materialised(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}
