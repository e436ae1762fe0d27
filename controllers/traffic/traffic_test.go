package traffic

import "testing"

func TestPortSet(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set       PortSet
		all       bool
		has, lack int32
	}{
		"no port":              {set: PortSet{}, lack: 80},
		"every port":           {set: PortSet{Except: true}, all: true, has: 80},
		"those listed":         {set: PortSet{Ports: []int32{80, 81}}, has: 81, lack: 82},
		"all but those listed": {set: PortSet{Except: true, Ports: []int32{80, 81}}, has: 82, lack: 81},
	} {
		if tc.set.All() != tc.all {
			t.Errorf("%s: All is %t", name, tc.set.All())
		}
		if tc.has != 0 && !tc.set.Has(tc.has) {
			t.Errorf("%s: does not have %d", name, tc.has)
		}
		if tc.lack != 0 && tc.set.Has(tc.lack) {
			t.Errorf("%s: has %d", name, tc.lack)
		}
	}
}
