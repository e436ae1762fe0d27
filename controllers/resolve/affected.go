package resolve

import (
	"context"
	"slices"
	"strings"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Affected returns the profiles whose facts an object may have a part in, ordered by namespace and name. For a change it
// is asked of the object before and after it; a profile's own events concern here only the profiles it is in conflict
// with, and that of the whole namespace that it is an exception of. What it looks at is what the object touches, by the
// cache's indexes.
func (r *Resolver) Affected(ctx context.Context, obj client.Object) []types.NamespacedName {
	a := &affected{source: r.source(), resolver: r, keys: map[types.NamespacedName]bool{}}
	if err := a.by(ctx, obj); err != nil {
		// A cache fails only while it is not set up; every profile is reconciled when it is.
		log.FromContext(ctx).Error(err, "finding affected profiles", "object", client.ObjectKeyFromObject(obj))
	}
	keys := make([]types.NamespacedName, 0, len(a.keys))
	for key := range a.keys {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(x, y types.NamespacedName) int {
		if c := strings.Compare(x.Namespace, y.Namespace); c != 0 {
			return c
		}
		return strings.Compare(x.Name, y.Name)
	})
	return keys
}

// affected collects the profiles that an object affects.
type affected struct {
	*source
	resolver *Resolver
	keys     map[types.NamespacedName]bool
	// only says which profiles are affected, of those that are found; all of them if it is nil.
	only func(*v1alpha1.ServiceSecurityProfile) bool
}

func (a *affected) by(ctx context.Context, obj client.Object) error {
	switch obj := obj.(type) {
	case *corev1.Pod:
		return a.byPod(ctx, obj)
	case *corev1.Service:
		return a.byService(ctx, obj.Namespace, obj.Name, serviceSelector(obj))
	case *corev1.Namespace:
		return a.byNamespace(ctx, obj.Name)
	case *corev1.ConfigMap:
		if obj.Namespace != a.resolver.RootNamespace || !meshConfigName(obj.Name) {
			return nil
		}
		return a.all(ctx, "")
	case *metav1.PartialObjectMetadata:
		if obj.Kind == SecretKind.Kind {
			return a.byRolloutFact(ctx, obj)
		}
		return a.byKey(ctx, profilesByCaller, "", obj.Namespace+"/"+obj.Name)
	case *v1alpha1.ServiceSecurityProfile:
		return a.byProfile(ctx, obj)
	default:
		return a.byIstio(ctx, obj)
	}
}

// byIstio adds the profiles that an object of Istio's, or of the Gateway API, affects.
func (a *affected) byIstio(ctx context.Context, obj client.Object) error {
	switch obj := obj.(type) {
	case *securityv1.PeerAuthentication:
		return a.byPolicy(ctx, obj)
	case *securityv1.RequestAuthentication:
		return a.byPlaced(ctx, obj, &obj.Spec, v1alpha1.SectionJWT)
	case *securityv1.AuthorizationPolicy:
		return a.byPlaced(ctx, obj, &obj.Spec, v1alpha1.SectionAuthorization)
	case *networkingv1.DestinationRule:
		return a.byRule(ctx, obj)
	case *Gateway:
		return a.byKey(ctx, profilesByTarget, obj.Namespace, gatewayTargetKey(obj.Name))
	default:
		return a.byRolloutFact(ctx, obj)
	}
}

// byRolloutFact adds the rollouts on their way that an object may hold. The others do not look at it, and a rollout looks
// again at every observation interval whatever happens, so it is no loss that pods are not looked up by their addresses.
func (a *affected) byRolloutFact(ctx context.Context, obj client.Object) error {
	a.only = underWay
	switch obj := obj.(type) {
	case *networkingv1.WorkloadEntry:
		if err := a.wide(ctx, obj.Namespace); err != nil {
			return err
		}
		return a.bySets(ctx, obj.Namespace, []map[string]string{entryLabels(obj)})
	case *networkingv1.ServiceEntry:
		return a.byEntry(ctx, obj)
	case *networkingv1.Sidecar:
		// What it makes ports speak is for policies about requests, too.
		a.only = func(profile *v1alpha1.ServiceSecurityProfile) bool {
			return underWay(profile) || readsRequests(profile)
		}
		return a.byConfiguration(ctx, obj.Namespace, obj.Spec.GetWorkloadSelector().GetLabels(), slices.Concat([]string{rolling}, readingRequests)...)
	case *telemetryv1.Telemetry:
		if len(references(&obj.Spec)) > 0 {
			return nil
		}
		return a.byConfiguration(ctx, obj.Namespace, obj.Spec.GetSelector().GetMatchLabels(), rolling)
	case *batchv1.CronJob:
		return a.byJob(ctx, obj)
	case *appsv1.Deployment, *appsv1.StatefulSet, *appsv1.DaemonSet:
		return a.byKey(ctx, profilesByTarget, obj.GetNamespace(), wholeNamespace)
	case *metav1.PartialObjectMetadata:
		return a.byKey(ctx, profilesByTarget, "", rolling)
	default:
		return nil
	}
}

// byConfiguration adds the profiles of pods whose proxies an object with this selector configures: without one, those that have
// one of the keys.
func (a *affected) byConfiguration(ctx context.Context, namespace string, selector map[string]string, keys ...string) error {
	if len(selector) > 0 {
		return a.bySelector(ctx, namespace, selector)
	}
	root, err := a.isRoot(ctx, namespace)
	if err != nil {
		return err
	}
	if root {
		return a.byKey(ctx, profilesByTarget, "", keys...)
	}
	if err := a.byKey(ctx, profilesByTarget, "", wholeMesh); err != nil {
		return err
	}
	return a.byKey(ctx, profilesByTarget, namespace, keys...)
}

// byEntry adds the profiles that a ServiceEntry leads to by name or by selector.
func (a *affected) byEntry(ctx context.Context, entry *networkingv1.ServiceEntry) error {
	hosts := slices.Clone(entry.Spec.GetHosts())
	for _, endpoint := range entry.Spec.GetEndpoints() {
		hosts = append(hosts, endpoint.GetAddress())
	}
	for _, host := range hosts {
		inside, ok := strings.CutSuffix(host, ".svc."+a.resolver.clusterDomain())
		service, namespace, qualified := strings.Cut(inside, ".")
		if !ok || !qualified {
			continue
		}
		if err := a.byHost(ctx, namespace, service); err != nil {
			return err
		}
	}
	return a.bySelector(ctx, entry.Namespace, entry.Spec.GetWorkloadSelector().GetLabels())
}

// byJob adds the profiles of a scheduled job's namespace, and of the Services that it names.
func (a *affected) byJob(ctx context.Context, job *batchv1.CronJob) error {
	if err := a.byKey(ctx, profilesByTarget, job.Namespace, rolling); err != nil {
		return err
	}
	if err := a.byKey(ctx, profilesByTarget, "", wholeMesh); err != nil {
		return err
	}
	for _, mention := range mentions(job) {
		service, namespace, _ := strings.Cut(mention, ".")
		if err := a.byHost(ctx, namespace, service); err != nil {
			return err
		}
	}
	return nil
}

func (a *affected) add(profiles ...*v1alpha1.ServiceSecurityProfile) {
	for _, profile := range profiles {
		if a.only != nil && !a.only(profile) {
			continue
		}
		a.keys[client.ObjectKeyFromObject(profile)] = true
	}
}

// all adds every profile of a namespace, or of the cluster if it is empty.
func (a *affected) all(ctx context.Context, namespace string) error {
	items, err := a.list(ctx, core, &v1alpha1.ServiceSecurityProfileList{}, client.InNamespace(namespace))
	if err != nil {
		return err
	}
	for _, item := range items {
		if profile, ok := item.(*v1alpha1.ServiceSecurityProfile); ok {
			a.add(profile)
		}
	}
	return nil
}

// byKey adds the profiles of a namespace, or of all if it is empty, that have one of the keys.
func (a *affected) byKey(ctx context.Context, ix index[*v1alpha1.ServiceSecurityProfile], namespace string, keys ...string) error {
	profiles, err := find(ctx, a.source, ix, namespace, keys...)
	a.add(profiles...)
	return err
}

// wide adds the profiles of a whole namespace and those of the mesh.
func (a *affected) wide(ctx context.Context, namespace string) error {
	if err := a.byKey(ctx, profilesByTarget, namespace, wholeNamespace); err != nil {
		return err
	}
	return a.byKey(ctx, profilesByTarget, "", wholeMesh)
}

// byNamespace adds the profiles of a namespace, those of the mesh, whose pods its labels may tell, and those with a
// caller in it.
func (a *affected) byNamespace(ctx context.Context, namespace string) error {
	if err := a.all(ctx, namespace); err != nil {
		return err
	}
	if err := a.byKey(ctx, profilesByTarget, "", wholeMesh); err != nil {
		return err
	}
	return a.byKey(ctx, profilesByCaller, "", namespace)
}

// bySets adds the profiles whose target has a pod with one of the sets of labels.
func (a *affected) bySets(ctx context.Context, namespace string, sets []map[string]string) error {
	profiles, err := profilesSelecting(ctx, a.source, namespace, sets)
	if err != nil {
		return err
	}
	a.add(profiles...)
	return nil
}

// bySelector adds the profiles whose target has a pod that the selector matches, in a namespace or, if it is empty, in any,
// those of whole namespaces included.
func (a *affected) bySelector(ctx context.Context, namespace string, selector map[string]string) error {
	pods, err := findPods(ctx, a.source, namespace, selector)
	if err != nil {
		return err
	}
	sets := map[string][]map[string]string{}
	for _, pod := range pods {
		sets[pod.Namespace] = append(sets[pod.Namespace], pod.Labels)
	}
	for namespace, sets := range sets {
		if err := a.wide(ctx, namespace); err != nil {
			return err
		}
		if err := a.bySets(ctx, namespace, sets); err != nil {
			return err
		}
	}
	return nil
}

// byPod adds the profiles whose target the pod belongs to, and those of Workloads that share a Service with it: it is an
// endpoint of their host.
func (a *affected) byPod(ctx context.Context, pod *corev1.Pod) error {
	sets := labelSets([]*corev1.Pod{pod})
	if err := a.bySets(ctx, pod.Namespace, sets); err != nil {
		return err
	}
	if err := a.byReach(ctx, pod.Namespace, sets); err != nil {
		return err
	}
	if err := a.wide(ctx, pod.Namespace); err != nil {
		return err
	}
	workloads, err := find(ctx, a.source, profilesByTarget, pod.Namespace, anyWorkload)
	if err != nil || len(workloads) == 0 {
		return err
	}
	services, err := servicesSelecting(ctx, a.source, pod.Namespace, sets)
	if err != nil {
		return err
	}
	for _, service := range services {
		pods, err := findPods(ctx, a.source, service.Namespace, service.Spec.Selector)
		if err != nil {
			return err
		}
		endpoints := labelSets(pods)
		for _, profile := range workloads {
			selector := workloadSelector(profile.Spec.Target)
			if slices.ContainsFunc(endpoints, func(set map[string]string) bool { return matches(selector, set) }) {
				a.add(profile)
			}
		}
	}
	return nil
}

// byReach adds the profiles of a root namespace whose selector matches a pod of another namespace.
func (a *affected) byReach(ctx context.Context, namespace string, sets []map[string]string) error {
	roots, err := a.rootNamespaces(ctx, a.resolver.RootNamespace)
	if err != nil {
		return err
	}
	for _, root := range roots {
		if root == namespace {
			continue
		}
		if err := a.bySets(ctx, root, sets); err != nil {
			return err
		}
	}
	return nil
}

// byService adds the profiles that have the Service as their target, and those that have a pod that it selects.
func (a *affected) byService(ctx context.Context, namespace, name string, selector map[string]string) error {
	profiles, err := find(ctx, a.source, profilesByTarget, namespace, serviceTargetKey(name))
	if err != nil {
		return err
	}
	a.add(profiles...)
	if err := a.wide(ctx, namespace); err != nil {
		return err
	}
	return a.bySelector(ctx, namespace, selector)
}

// byPolicy adds the profiles that a PeerAuthentication can say something to. Without a selector it is the parent of all
// others, of its namespace or, in the root namespace, of the mesh.
func (a *affected) byPolicy(ctx context.Context, policy *securityv1.PeerAuthentication) error {
	if err := a.byName(ctx, policy.Namespace, policy.Name); err != nil {
		return err
	}
	if err := a.byOwner(ctx, policy); err != nil {
		return err
	}
	if err := a.wide(ctx, policy.Namespace); err != nil {
		return err
	}
	if selector := policy.Spec.GetSelector().GetMatchLabels(); len(selector) > 0 {
		return a.bySelector(ctx, policy.Namespace, selector)
	}
	root, err := a.isRoot(ctx, policy.Namespace)
	if err != nil {
		return err
	}
	if root {
		return a.all(ctx, "")
	}
	return a.all(ctx, policy.Namespace)
}

// byPlaced adds the profiles that a RequestAuthentication or an AuthorizationPolicy can say something to: those that have
// its name to give, and those with the section for a pod that it may apply to.
func (a *affected) byPlaced(ctx context.Context, obj client.Object, spec placement, section v1alpha1.Section) error {
	namespace := obj.GetNamespace()
	for _, suffix := range []string{"", facts.DenyName(""), facts.TokenName("")} {
		if name, ok := strings.CutSuffix(obj.GetName(), suffix); ok {
			if err := a.byName(ctx, namespace, name); err != nil {
				return err
			}
		}
	}
	if err := a.byOwner(ctx, obj); err != nil {
		return err
	}
	root, err := a.isRoot(ctx, namespace)
	if err != nil {
		return err
	}
	if root {
		namespace = ""
	}
	switch selector := spec.GetSelector().GetMatchLabels(); {
	case len(references(spec)) > 0:
		return a.bySets(ctx, obj.GetNamespace(), gatewaySets(spec))
	case len(selector) == 0:
		return a.byKey(ctx, profilesByTarget, namespace, sectionKey(section))
	default:
		if err := a.wide(ctx, obj.GetNamespace()); err != nil {
			return err
		}
		return a.bySelector(ctx, namespace, selector)
	}
}

// gatewaySets are the labels by which the pods of the Gateways are found that a policy attaches to.
func gatewaySets(spec placement) []map[string]string {
	var sets []map[string]string
	for _, ref := range references(spec) {
		if toGateway(ref) {
			sets = append(sets, map[string]string{labelGatewayName: ref.GetName()})
		}
	}
	return sets
}

// byRule adds the profiles with a host that a DestinationRule matches, and those that own it or need its name.
func (a *affected) byRule(ctx context.Context, rule *networkingv1.DestinationRule) error {
	if err := a.byOwner(ctx, rule); err != nil {
		return err
	}
	if err := a.byRuleName(ctx, rule.Namespace, rule.Name); err != nil {
		return err
	}
	host := ExpandHost(rule.Spec.GetHost(), rule.Namespace, a.resolver.clusterDomain())
	inside, found := strings.CutSuffix(host, ".svc."+a.resolver.clusterDomain())
	service, namespace, qualified := strings.Cut(inside, ".")
	inCluster := found && qualified
	switch wildcard := strings.HasPrefix(host, "*"); {
	case inCluster && !wildcard:
		return a.byHost(ctx, namespace, service)
	case inCluster && service == "*" && !strings.Contains(namespace, "."):
		if err := a.wide(ctx, namespace); err != nil {
			return err
		}
		return a.all(ctx, namespace)
	case wildcard:
		return a.byWildcard(ctx, host)
	default:
		return nil
	}
}

// byRuleName adds the profiles that may need a rule of this name: a Service's has the profile's name, and a Workload's
// the profile's and then the Service's.
func (a *affected) byRuleName(ctx context.Context, namespace, name string) error {
	for i, char := range name + "-" {
		if char != '-' {
			continue
		}
		if err := a.byName(ctx, namespace, name[:i]); err != nil {
			return err
		}
	}
	return nil
}

// byHost adds the profiles of a Service's host.
func (a *affected) byHost(ctx context.Context, namespace, name string) error {
	var service corev1.Service
	if _, err := a.get(ctx, core, namespace, name, &service); err != nil {
		return err
	}
	return a.byService(ctx, namespace, name, serviceSelector(&service))
}

// byWildcard adds the profiles of every namespace in which the wildcard matches some host.
func (a *affected) byWildcard(ctx context.Context, wildcard string) error {
	items, err := a.list(ctx, core, &v1alpha1.ServiceSecurityProfileList{})
	if err != nil {
		return err
	}
	for _, item := range items {
		profile, ok := item.(*v1alpha1.ServiceSecurityProfile)
		wide := ok && profile.Spec.Target.Kind == v1alpha1.TargetMesh
		if wide || ok && overlapping(wildcard, Host("*", profile.Namespace, a.resolver.clusterDomain())) {
			a.add(profile)
		}
	}
	return nil
}

// overlapping says whether some host matches both wildcards.
func overlapping(a, b string) bool {
	a, b = strings.TrimPrefix(a, "*"), strings.TrimPrefix(b, "*")
	return strings.HasSuffix(a, b) || strings.HasSuffix(b, a)
}

// byProfile adds the profiles that a profile is in conflict with, and that of the whole namespace, which leaves the workload
// to a profile of its own although no policy of that may ever be there.
func (a *affected) byProfile(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) error {
	if profile.Spec.MTLS != nil && !wide(profile.Spec.Target.Kind) {
		if err := a.byKey(ctx, profilesByTarget, profile.Namespace, wholeNamespace); err != nil {
			return err
		}
	}
	selector := workloadSelector(profile.Spec.Target)
	switch profile.Spec.Target.Kind {
	case v1alpha1.TargetService:
		var service corev1.Service
		if _, err := a.get(ctx, core, profile.Namespace, profile.Spec.Target.Name, &service); err != nil {
			return err
		}
		selector = serviceSelector(&service)
	case v1alpha1.TargetGateway:
		selector = map[string]string{labelGatewayName: profile.Spec.Target.Name}
	case v1alpha1.TargetWorkload, v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
	}
	pods, err := findPods(ctx, a.source, profile.Namespace, selector)
	if err != nil {
		return err
	}
	found, err := rivals(ctx, a.source, profile, labelSets(pods), anyRoot)
	if err != nil {
		return err
	}
	for _, rival := range found {
		a.add(rival.Profile)
	}
	return nil
}

// byName adds a profile if it exists.
func (a *affected) byName(ctx context.Context, namespace, name string) error {
	var profile v1alpha1.ServiceSecurityProfile
	found, err := a.get(ctx, core, namespace, name, &profile)
	if found {
		a.add(&profile)
	}
	return err
}

// byOwner adds the profile that controls the object, if it exists, and those that it is in conflict with: they wait for
// what it writes.
func (a *affected) byOwner(ctx context.Context, obj client.Object) error {
	if !generated(obj) {
		return nil
	}
	var profile v1alpha1.ServiceSecurityProfile
	found, err := a.get(ctx, core, obj.GetNamespace(), metav1.GetControllerOfNoCopy(obj).Name, &profile)
	if err != nil || !found {
		return err
	}
	a.add(&profile)
	return a.byProfile(ctx, &profile)
}

// isRoot says whether a namespace is some mesh's root namespace.
func (a *affected) isRoot(ctx context.Context, namespace string) (bool, error) {
	roots, err := a.rootNamespaces(ctx, a.resolver.RootNamespace)
	return slices.Contains(roots, namespace), err
}

// rootNamespaces are the one that Istio's mesh configurations are in, and those that they name, of all revisions.
func (s *source) rootNamespaces(ctx context.Context, namespace string) ([]string, error) {
	items, err := s.list(ctx, core, &corev1.ConfigMapList{}, client.InNamespace(namespace))
	if err != nil {
		return nil, err
	}
	roots := []string{namespace}
	for _, item := range items {
		if config, ok := item.(*corev1.ConfigMap); ok && meshConfigName(config.Name) {
			if root := ParseMesh(config.Data[meshConfigKey], namespace).RootNamespace; !slices.Contains(roots, root) {
				roots = append(roots, root)
			}
		}
	}
	return roots, nil
}
