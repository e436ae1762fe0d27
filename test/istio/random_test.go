//go:build istio

package istio_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/builder"
)

var (
	seed     = flag.Uint64("seed", 1, "of the random profiles")
	profiles = flag.Uint64("profiles", 10000, "how many random profiles are rendered and validated")
	accepted = flag.Uint64("accepted", 1000, "how many of them the API server is asked about")
	only     = flag.Int64("only", -1, "the number of the one random profile to look at")
)

// enough is after how many complaints a test of random profiles gives up.
const enough = 20

// TestRandomProfiles asks the API server whether it takes what the builder takes for valid.
func TestRandomProfiles(t *testing.T) {
	ctx := testContext(t)
	each(t, *accepted, builder.Options{}, asking, func(number uint64) error {
		profile := builder.Make(*seed, number, builder.Options{}).Profile
		profile.Namespace, profile.Generation = "default", 0
		if err := kube.Create(ctx, profile, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
			return fmt.Errorf("the API server says %w", err)
		}
		return nil
	})
}

// TestRandomObjects: what comes of a valid profile is the same each time, is nothing that istiod would refuse or warn of, and
// has no field that is not Istio's.
func TestRandomObjects(t *testing.T) {
	ctx := testContext(t)
	var asked atomic.Int64
	started := time.Now()
	each(t, *profiles, builder.Options{}, asking, func(number uint64) error {
		list, err := twice(number)
		if err != nil {
			return err
		}
		for _, object := range list {
			if err := sound(ctx, object); err != nil {
				return fmt.Errorf("%w\n%s", err, text(object))
			}
			asked.Add(1)
		}
		return nil
	})
	t.Logf("%d objects of %d profiles in %s", asked.Load(), *profiles, time.Since(started).Round(time.Second))
	if *only < 0 && uint64(asked.Load()) < *profiles {
		t.Errorf("%d objects of %d profiles: were they rendered?", asked.Load(), *profiles)
	}
}

// each calls fn with every number, so many at once, and reports what it says with the profile.
func each(t *testing.T, count uint64, options builder.Options, several int, fn func(number uint64) error) {
	t.Helper()
	first := uint64(0)
	if *only >= 0 {
		first, count = uint64(*only), uint64(*only)+1
	}
	numbers := make(chan uint64)
	var wait sync.WaitGroup
	var wrong atomic.Int64
	for range several {
		wait.Go(func() {
			for number := range numbers {
				if err := fn(number); err != nil && wrong.Add(1) <= enough {
					t.Errorf("-seed %d -only %d: %v\n%s", *seed, number, err, profileText(number, options))
				}
			}
		})
	}
	for number := first; number < count && wrong.Load() < enough; number++ {
		numbers <- number
	}
	close(numbers)
	wait.Wait()
}

func profileText(number uint64, options builder.Options) string {
	profile := builder.Make(*seed, number, options).Profile
	return text(map[string]any{"metadata": map[string]string{"namespace": profile.Namespace, "name": profile.Name}, "spec": profile.Spec})
}

// twice renders a profile two times and wants the same, with the profile and the facts left as they were.
func twice(number uint64) ([]client.Object, error) {
	one, other := builder.Make(*seed, number, builder.Options{}), builder.Make(*seed, number, builder.Options{})
	if !reflect.DeepEqual(one, other) {
		return nil, fmt.Errorf("the builder makes another case of the same number:\n%s", cmp.Diff(one.Profile, other.Profile))
	}
	first, err := render(one)
	if err != nil {
		return nil, err
	}
	second, err := render(one)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(one, other) {
		return nil, fmt.Errorf("rendering changes the profile or the facts:\n%s", cmp.Diff(one, other))
	}
	list, again := listed(first), listed(second)
	if len(list) != len(again) {
		return nil, fmt.Errorf("%d objects, and then %d", len(list), len(again))
	}
	for i, object := range list {
		if !reflect.DeepEqual(metaOf(object), metaOf(again[i])) || !proto.Equal(specOf(object), specOf(again[i])) {
			return nil, fmt.Errorf("an object is another one the next time:\n%s\n%s", text(object), text(again[i]))
		}
	}
	return list, nil
}

func metaOf(object client.Object) metav1.ObjectMeta {
	return *reflect.ValueOf(object).Elem().FieldByName("ObjectMeta").Addr().Interface().(*metav1.ObjectMeta)
}

func specOf(object client.Object) proto.Message {
	return reflect.ValueOf(object).Elem().FieldByName("Spec").Addr().Interface().(proto.Message)
}

// sound says what is wrong with an object.
func sound(ctx context.Context, object client.Object) error {
	sent, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	var fields struct{ Spec json.RawMessage }
	if err := json.Unmarshal(sent, &fields); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	got := specOf(object).ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(fields.Spec, got); err != nil {
		return fmt.Errorf("decoding strictly: %w", err)
	}
	if !proto.Equal(specOf(object), got) {
		return fmt.Errorf("what is read is not what was written: %s", cmp.Diff(protojson.Format(specOf(object)), protojson.Format(got)))
	}
	said, err := complaint(ctx, object)
	if err != nil {
		return err
	}
	if said != "" {
		return fmt.Errorf("%s", said)
	}
	return nil
}
