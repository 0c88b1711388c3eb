// Follows tasks to their ends over NDJSON. For servers and jobs: the standard library is enough.

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
	silence     = 45 * time.Second // the bridge says something every 15 s; three times nothing is a dead line
	firstWait   = 500 * time.Millisecond
	longestWait = 20 * time.Second
	longestLine = 16 << 20 // a result may stand in the state itself
)

// State is what is known of a task at one moment, as far as this program cares.
type State struct {
	Task     string   `json:"task"`
	Status   string   `json:"status"`
	Progress *float64 `json:"progress"`
	Outputs  []Output `json:"outputs"`
	Error    *Failure `json:"error"`
}

// Output is one result. Its link expires: fetch it when it comes.
type Output struct {
	Type string  `json:"type"`
	URL  *string `json:"url"`
}

// Failure is the provider's own word on why there is no result.
type Failure struct {
	Code    *string `json:"code"`
	Message *string `json:"message"`
}

// line is a state, or with an event a word about the connection.
type line struct {
	State
	Event  string `json:"event"`
	Code   string `json:"code"`
	Cursor string `json:"cursor"`
}

// Refused is what the bridge would say again, however often it is asked.
type Refused struct {
	Status int
	Detail string
}

func (refused *Refused) Error() string {
	return fmt.Sprintf("%d %s", refused.Status, refused.Detail)
}

// Bridge is where the bridge is, and the token it asks for, if it does.
type Bridge struct {
	URL   string
	Token string
}

// Follow calls onState with every state of these tasks as it comes, and returns when all of them are final.
//
// It comes back by itself, with its cursor, after lost connections, restarts and the errors of gateways. It returns an
// error when the context ends or the bridge refuses. A task that does not exist has the status "not_found" when there
// are others; alone it is a *Refused.
func (bridge Bridge) Follow(ctx context.Context, tasks []string, onState func(State)) error {
	cursor := ""
	for failures := 0; ; failures++ {
		over, err := bridge.connect(ctx, tasks, cursor, func(next line) {
			if next.Code != "closing" { // a bridge that is full says that and nothing else
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
		if over || errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait(failures)):
		}
	}
}

// connect reads one connection. The bridge ends it now and then; only a line "end" means that all is over.
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
		return true, nil // our cursor says that we have seen everything
	}
	if response.StatusCode != http.StatusOK {
		return false, failure(response)
	}

	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, longestLine)
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

// request names the tasks in its body: a list may be too long for a URL.
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

// failure says whether an answer that is no stream is worth another try.
func failure(response *http.Response) error {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.NewDecoder(response.Body).Decode(&problem) != nil { // a gateway answers with a page
		problem.Detail = http.StatusText(response.StatusCode)
	}
	passes := response.StatusCode >= 500 || response.StatusCode == 408 || response.StatusCode == 429
	if passes && response.Header.Get("X-Should-Retry") != "false" {
		return fmt.Errorf("%d %s", response.StatusCode, problem.Detail)
	}
	return &Refused{response.StatusCode, problem.Detail}
}

// wait grows with each failure and is never the same for two clients.
func wait(failures int) time.Duration {
	longest := longestWait
	if failures < 5 {
		longest = firstWait << failures
	}
	return longest/2 + time.Duration(rand.Int63n(int64(longest/2)))
}
