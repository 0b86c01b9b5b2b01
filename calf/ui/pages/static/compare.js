// Vue's part of the page: it gives an element to what is plain JavaScript.
import { Compare } from "calf-compare";

export default {
  props: { options: Object },
  template: '<div class="calf-compare"></div>',
  mounted() {
    this.compare = new Compare(this.$el, this.options);
  },
  unmounted() {
    this.compare.close();
  },
};
