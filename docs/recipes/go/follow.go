// Follows tasks until they are final, over NDJSON. For servers and jobs; uses only the standard library.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"net/url"
	"time"
)

const (
	silence   = 45 * time.Second // the bridge sends a keepalive every 15 s; three missing ones mean a dead connection
	firstWait = 500 * time.Millisecond
	maxWait   = 20 * time.Second
	maxLine   = 16 << 20 // a state may contain the result itself
)

// State is the state of a task, with the fields this program uses.
type State struct {
	Task     string   `json:"task"`
	Status   string   `json:"status"`
	Progress *float64 `json:"progress"`
	Outputs  []Output `json:"outputs"`
	Error    *Failure `json:"error"`
}

// Output is one result. Its link expires, so download it at once.
type Output struct {
	Type string  `json:"type"`
	URL  *string `json:"url"`
}

// Failure is the provider's error.
type Failure struct {
	Code    *string `json:"code"`
	Message *string `json:"message"`
}

// line is a state, or a control message if Event is set.
type line struct {
	State
	Event  string `json:"event"`
	Code   string `json:"code"`
	Cursor string `json:"cursor"`
}

// Refused is a permanent error: a retry would fail the same way.
type Refused struct {
	Status int
	Detail string
}

func (refused *Refused) Error() string {
	return fmt.Sprintf("%d %s", refused.Status, refused.Detail)
}

// Bridge is the address of a bridge and the bearer token, if it requires one.
type Bridge struct {
	URL   string
	Token string
}

// Follow calls onState with every state of these tasks, and returns when all of them are final.
//
// It reconnects automatically, with its cursor, after lost connections, restarts and gateway errors. It returns an error when
// the context ends or the bridge rejects it. A task that does not exist has the status "not_found" if there are others;
// otherwise Follow returns a *Refused.
func (bridge Bridge) Follow(ctx context.Context, tasks []string, onState func(State)) error {
	cursor := ""
	for failures := 0; ; failures++ {
		finished, err := bridge.connect(ctx, tasks, cursor, func(next line) {
			if next.Code != "closing" { // an overloaded bridge sends `closing` and nothing else
				failures = 0
			}
			if next.Cursor != "" {
				cursor = next.Cursor
			}
			switch {
			case next.Event == "":
				onState(next.State)
			case next.Code == "task_not_found":
				onState(State{Task: next.Task, Status: "not_found"})
			}
		})
		var refused *Refused
		if finished || errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait(failures)):
		}
	}
}

// connect reads one connection. The bridge ends connections regularly; only the line "end" means that all tasks are final.
func (bridge Bridge) connect(ctx context.Context, tasks []string, cursor string, on func(line)) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()

	request, err := bridge.request(ctx, tasks, cursor)
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return true, nil // everything before this cursor has been delivered
	}
	if response.StatusCode != http.StatusOK {
		return false, failure(response)
	}

	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watchdog.Reset(silence)
		next := line{Event: "alive"}
		if text := lines.Bytes(); len(text) > 0 {
			next = line{}
			if err := json.Unmarshal(text, &next); err != nil {
				return false, err
			}
		}
		if next.Event == "end" {
			return true, nil
		}
		on(next)
	}
	return false, lines.Err()
}

// request sends the tasks in the body: a list may be too long for a URL.
func (bridge Bridge) request(ctx context.Context, tasks []string, cursor string) (*http.Request, error) {
	body, err := json.Marshal(map[string][]string{"tasks": tasks})
	if err != nil {
		return nil, err
	}
	target := bridge.URL + "/v1/events?last_event_id=" + url.QueryEscape(cursor)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/x-ndjson")
	request.Header.Set("Content-Type", "application/json")
	if bridge.Token != "" {
		request.Header.Set("Authorization", "Bearer "+bridge.Token)
	}
	return request, nil
}

// failure classifies an error response as temporary or permanent.
func failure(response *http.Response) error {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.NewDecoder(response.Body).Decode(&problem) != nil { // a gateway returns an HTML page
		problem.Detail = http.StatusText(response.StatusCode)
	}
	temporary := response.StatusCode >= 500 || response.StatusCode == 408 || response.StatusCode == 429
	if temporary && response.Header.Get("X-Should-Retry") != "false" {
		return fmt.Errorf("%d %s", response.StatusCode, problem.Detail)
	}
	return &Refused{response.StatusCode, problem.Detail}
}

// wait is exponential back-off with jitter.
func wait(failures int) time.Duration {
	limit := maxWait
	if failures < 5 {
		limit = firstWait << failures
	}
	return limit/2 + time.Duration(rand.Int63n(int64(limit/2)))
}
