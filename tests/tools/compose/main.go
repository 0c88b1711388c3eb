// Prints what `docker compose config` would: the files of a folder read by Compose's own loader.
//
//	compose-config [--file FILE] [--profile NAME ...]
//
// `docker compose` is this loader and an engine, and there is no engine where the tests run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

type list []string

func (l *list) String() string         { return strings.Join(*l, ",") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

func main() {
	var files, profiles list
	flag.Var(&files, "file", "a Compose file; by default the one of the working directory or of a folder above")
	flag.Var(&profiles, "profile", "a profile to switch on; by default those of COMPOSE_PROFILES")
	flag.Parse()
	if err := show(files, profiles); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The options in the order in which `docker compose` applies them.
func show(files, profiles []string) error {
	options, err := cli.NewProjectOptions(files,
		cli.WithOsEnv,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithDefaultProfiles(profiles...),
	)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	document, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(document))
	return err
}
